"""Endless shuffled training batches, and the random crops that training sees.

Batch n depends on the seed and n only, so a run that resumes at batch n sees the same batches as one that was never
interrupted, with any number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import Stateful, StatefulDataLoader

from experiments.data.files import ImageFiles, LazyImageSet
from hard_aug.data.image_set import ImageSet
from hard_aug.utils.checks import as_seed

warnings.filterwarnings("ignore", "'set_vital' is deprecated", module="torchdata")  # of torchdata 0.11, by torch 2.14
#: Maximum number of processes that decode files ahead of training.
WORKERS = 4


class BatchSource(Stateful, Protocol):
    """An endless source of batches, whose state is the position in the order."""

    def next(self) -> ImageSet:
        """Return the next batch."""


class Batches:
    """Endless batches, reshuffled in each epoch; an epoch's remainder starts the next epoch's first batch.

    Args:
        part: images and labels.
        batch_size: images of each batch, at most `len(part)`.
        seed: of the order, and of random crops.
        workers: processes that read ahead; 0: none; None: one per thread of torch, 4 at most, for files, else 0.
    """

    def __init__(self, part: ImageSet, batch_size: int, seed: int, *, workers: int | None = None) -> None:
        if not 1 <= batch_size <= len(part):
            raise ValueError(f"batch_size={batch_size}: expected 1 to {len(part)}, the number of training images")
        if workers is None:
            is_files = isinstance(part, LazyImageSet) and isinstance(part.reader, ImageFiles)
            workers = min(WORKERS, torch.get_num_threads()) if is_files else 0
        is_joblib = multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods()
        if multiprocessing.current_process().daemon or is_joblib:  # such a process may have no children
            workers = 0
        self.part, self.batch_size, self.seed, self.workers = part, int(batch_size), as_seed(seed), workers
        self._number = 0
        self._iterator: Iterator[Any] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch, at least 1."""
        return len(self.part) // self.batch_size

    def next(self) -> ImageSet:
        """Return the next batch, on the device of the labels.

        Raises:
            ValueError: a file that cannot be decoded, or is gone.
            RuntimeError: a worker was killed.
        """
        if self._iterator is None:
            self._iterator = iter(self._loader())
        failure = ""
        try:
            images, labels = next(self._iterator)
        except (RuntimeError, OSError, EOFError) as error:
            if not self.workers:
                raise
            failure = " ".join(f"{type(error).__name__}: {error}".split())
        if failure:  # only here, because the exception above holds the workers
            self._iterator = None
            advice = "lower batch_size or enlarge /dev/shm if memory ran out, and run the same command again to resume"
            raise RuntimeError(f"a process that reads images ended; {advice} ({failure})")
        if isinstance(images, str):
            raise ValueError(images)
        self._number += 1
        images, labels = images.to(self.part.device), labels.to(self.part.device)
        return ImageSet(images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images, labels)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the order; the loader's own state would bind a run to its number of workers."""
        return {"number": self._number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`."""
        self._number, self._iterator = state["number"], None

    def _loader(self) -> StatefulDataLoader[Any]:
        return StatefulDataLoader(
            _Reading(self.part, self.seed),
            batch_size=None,
            sampler=_order(len(self.part), self.batch_size, self.seed, self._number),
            num_workers=self.workers,
            worker_init_fn=_outlive_signals,
            generator=torch.Generator(),  # the loader draws a seed, by default from the generator of the training
        )


def _order(count: int, batch_size: int, seed: int, number: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the number and the rows of each batch, from `number` on."""
    generator = torch.Generator().manual_seed(seed)
    epoch, start = divmod(number * batch_size, count)
    for _ in range(epoch):  # one generator draws all epochs
        torch.randperm(count, generator=generator)
    queue = torch.randperm(count, generator=generator)[start:]
    while True:
        if len(queue) < batch_size:
            queue = torch.cat((queue, torch.randperm(count, generator=generator)))
        yield number, queue[:batch_size]
        number, queue = number + 1, queue[batch_size:]


class _Reading(Dataset[Any]):
    """Map a pair of `_order` to images and labels, or to the message of a file that cannot be decoded."""

    def __init__(self, part: ImageSet, seed: int) -> None:  # workers must not touch a GPU
        self.part, self.seed = part.to(torch.device("cpu")) if isinstance(part, LazyImageSet) else part, seed

    def __getitem__(self, batch: tuple[int, Tensor]) -> tuple[Tensor | str, Tensor]:
        number, rows = batch
        if isinstance(self.part, LazyImageSet):
            try:
                pixels = self.part.reader.read(self.part.rows[rows].tolist(), (self.seed, number))
            except (
                ValueError,
                FileNotFoundError,
            ) as error:  # as text: a loader prepends a worker's traceback to an exception
                return str(error), rows
            return pixels, self.part.labels[rows]
        found = self.part.select(rows.to(self.part.device))
        crops = self.part.crop(found.images, (self.seed, number)) if isinstance(self.part, Cropped) else found.images
        return crops, found.labels


def _outlive_signals(worker: int) -> None:
    """Obey the training process alone: Ctrl-C and a cluster's SIGTERM reach all, and training first ends its step."""

    def obey() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=obey, daemon=True).start()


@dataclass(frozen=True, eq=False, repr=False)
class Cropped(ImageSet):
    """Images in memory that `Batches` crops and mirrors at random, as is usual for CIFAR (He et al., arXiv:1512.03385).

    Each is padded with zeros by `padding` pixels, cropped to its size at any of the places, and mirrored (`flip`) with
    probability 1/2.
    """

    padding: int = 0
    flip: bool = False

    def to(self, device: torch.device) -> Cropped:
        """See `ImageSet.to`."""
        return Cropped(self.images.to(device), self.labels.to(device), self.padding, self.flip)

    def crop(self, images: Tensor, batch: tuple[int, int]) -> Tensor:
        """Shift and mirror each of `(B, C, H, W)`, given the seed and the number of the batch."""
        count, _, height, width = images.shape
        generator = torch.Generator().manual_seed((batch[0] * 1_000_003 + batch[1]) % 2**63)
        top, left = torch.randint(2 * self.padding + 1, (2, count, 1), generator=generator).to(images.device)
        rows = top + torch.arange(height, device=images.device)
        columns = left + torch.arange(width, device=images.device)
        if self.flip:
            mirrored = torch.rand(count, 1, generator=generator).to(images.device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        which = torch.arange(count, device=images.device)[:, None, None]
        # torchvision crops a batch in one place; indices on both sides of the channels move these to the end
        padded = F.pad(images, (self.padding,) * 4)
        return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
