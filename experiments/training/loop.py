"""The training loop of teachers and students: shuffled batches, Adam with cosine decay, resumable state.

The state of a run contains everything that its next step depends on, so a resumed run ends bit-identical to an
uninterrupted one.
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

from hard_aug.data import ImageSet
from hard_aug.models.eval_mode import unwrap_model
from hard_aug.utils.checks import check_integer

PRECISIONS = ("no", "bf16", "fp16")


@dataclass(frozen=True)
class TrainerSettings:
    """How a student's training steps are computed: the config group `trainer`.

    Args:
        precision: `no` for float32, or the autocast dtype: `bf16` or (on a GPU) `fp16`.
        accumulate: number of micro-batches that each batch is split into, to save memory. Views are drawn, and
            BatchNorm normalises, within each micro-batch.
        ema: decay, in [0, 1), of the exponential moving average of the weights that the student ends with; 0: off.

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
            raise ValueError(f"trainer.precision={self.precision}: expected one of {', '.join(PRECISIONS)}")
        check_integer(**{"trainer.accumulate": self.accumulate})
        if not 0 <= self.ema < 1:
            raise ValueError(f"trainer.ema={self.ema}: expected a decay in [0, 1), such as 0.999; 0 turns it off")


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Add advice to out-of-memory errors of the GPU or the CPU.

    Args:
        advice: what to change.

    Raises:
        torch.OutOfMemoryError: in place of either error.
    """
    try:
        yield
    except RuntimeError as error:  # the GPU's error is one, and the CPU's has no type of its own
        phrases = ("can't allocate memory", "not enough memory")
        if isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in phrases):
            raise torch.OutOfMemoryError(f"out of memory; {advice} ({error})") from error
        raise


def synchronize(device: torch.device) -> None:
    """Synchronise with a GPU, so that a clock that is read afterwards includes its work; a no-op on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def progress_bar(*, quiet: bool = False) -> Progress:
    """Return the progress bar of all long-running work; `quiet` disables it."""
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
    """Endless batches, reshuffled in each epoch; an epoch's remainder starts the next epoch's first batch.

    Args:
        part: images and labels.
        batch_size: images of each batch, at most `len(part)`.
        seed: of the order, and of random crops.
    """

    def __init__(self, part: ImageSet, batch_size: int, seed: int) -> None:
        if not 1 <= batch_size <= len(part):
            raise ValueError(f"batch_size={batch_size}: expected 1 to {len(part)}, the number of training images")
        self.part, self.batch_size, self.seed = part, batch_size, seed
        self.number = 0  # of batches so far; random crops depend on it
        self._generator = torch.Generator().manual_seed(seed)
        self._queue = torch.empty(0, dtype=torch.int64)

    def next(self) -> ImageSet:
        """Return the next batch."""
        if len(self._queue) < self.batch_size:
            self._queue = torch.cat((self._queue, torch.randperm(len(self.part), generator=self._generator)))
        index, self._queue = self._queue[: self.batch_size], self._queue[self.batch_size :]
        batch = self.part.view(self.seed, self.number)[index.to(self.part.device)].materialize()
        self.number += 1
        self.part.view(self.seed, self.number).prefetch(self._queue[: self.batch_size])
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the order."""
        return {"generator": self._generator.get_state(), "queue": self._queue.clone(), "number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`."""
        self._generator.set_state(state["generator"])
        self._queue = state["queue"]
        self.number = state.get("number", 0)  # older states are of images without random crops


class BatchSource(Protocol):
    """An endless source of batches with a resumable order."""

    def next(self) -> ImageSet:
        """Return the next batch."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the order."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`."""


class Training:
    """The training of one network, with its resumable state.

    Args:
        model: the network, possibly wrapped in DistributedDataParallel; it is in training mode while it trains.
        part: training images and labels.
        steps: number of optimiser steps.
        batch_size: images of each step.
        learning_rate: of Adam, at the start of the cosine decay.
        seed: of the order of the batches, and of dropout.
        warmup: number of steps with a linearly rising learning rate before the cosine decay.
        batches: replaces shuffled batches of `part`.
        settings: number of micro-batches and decay of the weight average. The precision is the accelerator's.
        accelerator: the accelerator of `experiments.training.distributed`; None: full precision, in this process alone.
        memory_advice: what to change if memory runs out, for the error message.
    """

    def __init__(
        self,
        model: nn.Module,
        part: ImageSet,
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
        warmup: int = 0,
        batches: BatchSource | None = None,
        settings: TrainerSettings | None = None,
        accelerator: Accelerator | None = None,
        memory_advice: str = "lower batch_size",
    ) -> None:
        check_integer(steps=steps)
        self.model, self.steps, self.step = model, steps, 0
        self.batches: BatchSource = Batches(part, batch_size, seed) if batches is None else batches
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, steps - warmup))
        self.scheduler: torch.optim.lr_scheduler.LRScheduler = cosine
        if warmup:
            rising = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.01, 1.0, warmup)
            self.scheduler = torch.optim.lr_scheduler.SequentialLR(self.optimizer, [rising, cosine], [warmup])
        self.settings = TrainerSettings() if settings is None else settings
        self.accelerator, self.memory_advice = accelerator, memory_advice
        self._network = unwrap_model(model)
        self._scaler: torch.amp.GradScaler | None = None
        self._stepper: torch.optim.Optimizer | AcceleratedOptimizer = self.optimizer
        if accelerator is not None:
            self._stepper = accelerator.prepare_optimizer(self.optimizer)
            self._scaler = accelerator.scaler
        if self._scaler is not None:  # the accelerator has only one, and another network may have used it
            fresh = torch.amp.GradScaler(accelerator.device.type).state_dict()
            self._scaler.load_state_dict(fresh)
        self._average: AveragedModel | None = None
        if self.settings.ema:
            average = get_ema_multi_avg_fn(self.settings.ema)
            self._average = AveragedModel(self._network, multi_avg_fn=average, use_buffers=True)
        torch.manual_seed(seed)

    def run(self, loss_fn: Callable[[Tensor, Tensor], Tensor], after_step: Callable[[], None]) -> Iterator[Tensor]:
        """Train to the end, yielding each step's detached loss once the step is complete.

        Args:
            loss_fn: maps images `(B, C, H, W)` and labels `(B,)` of a micro-batch to a scalar loss.
            after_step: called after each optimiser step.

        Raises:
            FloatingPointError: the loss is not finite.
            torch.OutOfMemoryError: the error says what reduces the memory use.
        """
        while self.step < self.steps:
            self.model.train()
            with explain_out_of_memory(self.memory_advice):
                loss = self._train_step(self.batches.next(), loss_fn)
                after_step()
            self.step += 1
            if (self.step % 50 == 0 or self.step == self.steps) and not bool(loss.isfinite()):
                raise FloatingPointError(f"the loss is {loss} at step {self.step}; lower learning_rate")
            yield loss
        if self._average is not None:
            self._network.load_state_dict(self._average.module.state_dict())

    @property
    def final_model(self) -> nn.Module:
        """The network as it would be if training ended now: the average of its weights, if `settings.ema` is set."""
        return self._network if self._average is None else self._average.module

    def _train_step(self, batch: ImageSet, loss_fn: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Take one optimiser step on all micro-batches of the batch; return the mean of their losses."""
        count = self.settings.accumulate
        size = -(-len(batch) // count)
        losses = []
        self._stepper.zero_grad()
        for start in range(0, len(batch), size):
            part = batch[slice(start, start + size)]
            if self.accelerator is None:
                loss = loss_fn(part.images, part.labels)
                (loss / count if count > 1 else loss).backward()
            else:
                with self.accelerator.accumulate(self.model):
                    with self.accelerator.autocast():
                        loss = loss_fn(part.images, part.labels)
                    self.accelerator.backward(loss)
            losses.append(loss.detach())
        self._stepper.step()
        if not getattr(self._stepper, "step_was_skipped", False):  # skipped after an overflow in float16
            self.scheduler.step()
            if self._average is not None:
                self._average.update_parameters(self._network)
        return losses[0] if count == 1 else torch.stack(losses).mean()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, including the global random state (dropout)."""
        state = {
            "model": self._network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "batches": self.batches.state_dict(),
            "step": self.step,
            "rng": torch.get_rng_state(),
            "average": None if self._average is None else self._average.state_dict(),
            "scaler": None if self._scaler is None else self._scaler.state_dict(),
        }
        if torch.cuda.is_available():  # of this process's device: all processes load the state of rank 0
            state["cuda_rng"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`."""
        self._network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.batches.load_state_dict(state["batches"])
        self.step = state["step"]
        torch.set_rng_state(state["rng"].cpu())
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if self._scaler is not None and state.get("scaler") is not None:
            self._scaler.load_state_dict(state["scaler"])
        if "cuda_rng" in state and torch.cuda.is_available():
            rng = state["cuda_rng"]
            torch.cuda.set_rng_state((rng if isinstance(rng, torch.Tensor) else rng[0]).cpu())
