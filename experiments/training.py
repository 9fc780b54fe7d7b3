"""One loop for teachers and students: shuffled batches, Adam with a cosine, a progress bar, and a stop that keeps all.

The state of a run is all that its next step depends on, so a resumed run ends where an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments.data import Part
from hard_aug.models.guard import unwrapped

PRECISIONS = ("no", "bf16", "fp16")


@dataclass(frozen=True)
class Settings:
    """How a student's steps are done: the group `trainer`.

    Args:
        precision: `no` for float32, or what autocast computes in: `bf16` or (on a GPU) `fp16`.
        accumulate: micro-batches that a batch is split into; they take turns in the memory. Views are drawn, and
            BatchNorm normalises, within each.
        ema: decay, in [0, 1), of a moving mean of the weights that the student ends with; 0: it ends with its last.

    Raises:
        ValueError: a setting outside its range.
    """

    precision: str = "no"
    accumulate: int = 1
    ema: float = 0.0

    def __post_init__(self) -> None:
        if self.precision is False:  # YAML's `no` without quotes
            object.__setattr__(self, "precision", "no")
        if self.precision not in PRECISIONS:
            raise ValueError(f"trainer.precision={self.precision}: wanted one of {', '.join(PRECISIONS)}")
        if not isinstance(self.accumulate, int) or self.accumulate < 1:
            raise ValueError(f"trainer.accumulate={self.accumulate}: wanted a whole number of at least 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"trainer.ema={self.ema}: wanted a decay in [0, 1), such as 0.999; 0 for none")


@contextmanager
def memory_explained(advice: str) -> Iterator[None]:
    """Add to an error of too little memory, the GPU's or the CPU's, what to do about it.

    Raises:
        torch.OutOfMemoryError: in place of either.
    """
    try:
        yield
    except RuntimeError as error:  # a GPU's is one, and the CPU's has no type of its own
        words = ("can't allocate memory", "not enough memory")
        if isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in words):
            raise torch.OutOfMemoryError(f"out of memory; {advice} ({error})") from error
        raise


def wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was given, so that a clock that is read then has seen it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
        model: in training mode while it trains; DistributedDataParallel may be around it.
        part: training images and labels.
        steps, batch_size: how long, and on how many images a step.
        learning_rate: of Adam, at the start of the cosine; `warmup` steps lead up to it.
        seed: of the order of the batches, and of dropout.
        batches: in place of shuffled ones of `part`.
        settings: micro-batches and moving mean. The precision is the accelerator's.
        accelerator: of `experiments.processes`; None: full precision, in this process alone.
        memory: what to do where the memory does not suffice.
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
        settings: Settings | None = None,
        accelerator: Accelerator | None = None,
        memory: str = "lower batch_size",
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
        self.settings = Settings() if settings is None else settings
        self.accelerator, self.memory = accelerator, memory
        self._network = unwrapped(model)
        self._scaler: torch.amp.GradScaler | None = None
        self._stepper: torch.optim.Optimizer | AcceleratedOptimizer = self.optimizer
        if accelerator is not None:
            self._stepper = accelerator.prepare_optimizer(self.optimizer)
            self._scaler = accelerator.scaler
        if self._scaler is not None:  # the accelerator's only one, and another network may have used it
            fresh = torch.amp.GradScaler(accelerator.device.type).state_dict()
            self._scaler.load_state_dict(fresh)
        self._mean: AveragedModel | None = None
        if self.settings.ema:
            average = get_ema_multi_avg_fn(self.settings.ema)
            self._mean = AveragedModel(self._network, multi_avg_fn=average, use_buffers=True)
        torch.manual_seed(seed)

    def run(self, loss_of: Callable[[Tensor, Tensor], Tensor], after_step: Callable[[], None]) -> Iterator[Tensor]:
        """Train to the end, yielding each step's detached loss once the step is complete.

        Args:
            loss_of: images `(B, C, H, W)` and labels `(B,)`, of a micro-batch, to a scalar.
            after_step: called after the optimiser's step.

        Raises:
            FloatingPointError: a loss that is not finite.
            torch.OutOfMemoryError: says what lowers the need.
        """
        while self.step < self.steps:
            self.model.train()
            with memory_explained(self.memory):
                loss = self._descend(self.batches.next(), loss_of)
                after_step()
            self.step += 1
            if (self.step % 50 == 0 or self.step == self.steps) and not bool(loss.isfinite()):
                raise FloatingPointError(f"the loss is {loss} at step {self.step}; lower learning_rate")
            yield loss
        if self._mean is not None:
            self._network.load_state_dict(self._mean.module.state_dict())

    @property
    def outcome(self) -> nn.Module:
        """The network as it would be if training ended now: the moving mean of its weights, where there is one."""
        found: nn.Module = self._network if self._mean is None else self._mean.module
        return found

    def _descend(self, batch: Part, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """One step of the optimiser on all micro-batches of the batch; the mean of their losses."""
        count = self.settings.accumulate
        size = -(-len(batch) // count)
        losses = []
        self._stepper.zero_grad()
        for start in range(0, len(batch), size):
            part = batch[slice(start, start + size)]
            if self.accelerator is None:
                loss = loss_of(part.images, part.labels)
                (loss / count if count > 1 else loss).backward()
            else:
                with self.accelerator.accumulate(self.model):
                    with self.accelerator.autocast():
                        loss = loss_of(part.images, part.labels)
                    self.accelerator.backward(loss)
            losses.append(loss.detach())
        self._stepper.step()
        if not getattr(self._stepper, "step_was_skipped", False):  # an overflow in float16
            self.scheduler.step()
            if self._mean is not None:
                self._mean.update_parameters(self._network)
        return losses[0] if count == 1 else torch.stack(losses).mean()

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, the global random state (dropout) included."""
        state = {
            "model": self._network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "batches": self.batches.state_dict(),
            "step": self.step,
            "rng": torch.get_rng_state(),
            "mean": None if self._mean is None else self._mean.state_dict(),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
        }
        if torch.cuda.is_available():  # this process's device: all processes take up the first one's state
            state["cuda_rng"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()`."""
        self._network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.batches.load_state_dict(state["batches"])
        self.step = state["step"]
        torch.set_rng_state(state["rng"].cpu())
        if self._mean is not None:
            self._mean.load_state_dict(state["mean"])
        if self._scaler is not None and state.get("scaler") is not None:
            self._scaler.load_state_dict(state["scaler"])
        if "cuda_rng" in state and torch.cuda.is_available():
            kept = state["cuda_rng"]
            torch.cuda.set_rng_state((kept if isinstance(kept, torch.Tensor) else kept[0]).cpu())
