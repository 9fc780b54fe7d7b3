"""One loop for teachers and students: shuffled batches, Adam with a cosine, a progress bar, and a stop that keeps all.

The state of a run is all that its next step depends on, so a resumed run ends where an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from experiments.data import Part


def progress_bar(*, quiet: bool = False) -> Progress:
    """The bar that all long work shows (unless `quiet`)."""
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
        refresh_per_second=2,
        disable=quiet,
    )


class Batches:
    """Endless batches of a part, shuffled anew in each epoch; the rest of an epoch opens the next one's first batch."""

    def __init__(self, part: Part, batch_size: int, seed: int) -> None:
        if not 1 <= batch_size <= len(part):
            raise ValueError(f"batch_size={batch_size}: wanted 1 to {len(part)}, the number of training images")
        self.part, self.batch_size, self.seed = part, batch_size, seed
        self.number = 0  # of batches so far: what random crops depend on
        self._generator = torch.Generator().manual_seed(seed)
        self._queue = torch.empty(0, dtype=torch.int64)

    def next(self) -> Part:
        """The next batch."""
        if len(self._queue) < self.batch_size:
            self._queue = torch.cat((self._queue, torch.randperm(len(self.part), generator=self._generator)))
        index, self._queue = self._queue[: self.batch_size], self._queue[self.batch_size :]
        batch = self.part.view(self.seed, self.number)[index.to(self.part.device)].in_memory()
        self.number += 1
        self.part.view(self.seed, self.number).prefetch(self._queue[: self.batch_size])
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where in the order it is."""
        return {"generator": self._generator.get_state(), "queue": self._queue.clone(), "number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()`."""
        self._generator.set_state(state["generator"])
        self._queue = state["queue"]
        self.number = state.get("number", 0)  # older states are of images that no crop is drawn of


class Source(Protocol):
    """Endless batches whose order can be taken up again."""

    def next(self) -> Part: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Training:
    """The state of one network's training.

    Args:
        model: in training mode while it trains.
        part: training images and labels.
        steps, batch_size: how long, and on how many images a step.
        learning_rate: of Adam, at the start of the cosine; `warmup` steps lead up to it.
        seed: of the order of the batches, and of dropout.
        batches: in place of shuffled ones of `part`.
    """

    def __init__(
        self,
        model: nn.Module,
        part: Part,
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
        warmup: int = 0,
        batches: Source | None = None,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps}: wanted at least 1")
        self.model = model
        self.steps = steps
        self.step = 0
        self.batches: Source = Batches(part, batch_size, seed) if batches is None else batches
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, steps - warmup))
        self.scheduler: torch.optim.lr_scheduler.LRScheduler = cosine
        if warmup:
            rising = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.01, 1.0, warmup)
            self.scheduler = torch.optim.lr_scheduler.SequentialLR(self.optimizer, [rising, cosine], [warmup])
        torch.manual_seed(seed)

    def run(self, loss_of: Callable[[Tensor, Tensor], Tensor], after_step: Callable[[], None]) -> Iterator[Tensor]:
        """Train to the end, yielding each step's detached loss once the step is complete.

        Args:
            loss_of: images `(B, C, H, W)` and labels `(B,)` to a scalar.
            after_step: called after the optimiser's step.

        Raises:
            FloatingPointError: a loss that is not finite.
        """
        while self.step < self.steps:
            self.model.train()
            batch = self.batches.next()
            loss = loss_of(batch.images, batch.labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            after_step()
            self.step += 1
            loss = loss.detach()
            if self.step % 50 == 0 and not bool(loss.isfinite()):
                raise FloatingPointError(f"the loss is {loss} at step {self.step}; lower learning_rate")
            yield loss

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, the global random state (dropout) included."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "batches": self.batches.state_dict(),
            "step": self.step,
            "rng": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.batches.load_state_dict(state["batches"])
        self.step = state["step"]
        torch.set_rng_state(state["rng"].cpu())
        if "cuda_rng" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_rng"]])
