"""The training loop of teachers, students and generative models: Adam with cosine decay, resumable from a checkpoint.

The checkpoint contains everything that the next step depends on, so a resumed training ends bit-identical to an
uninterrupted one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments.data.batches import BatchSource
from experiments.training import checkpoint, distributed
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from experiments.training.settings import TrainerSettings
from hard_aug.models.eval_mode import unwrap_model
from hard_aug.utils.checks import check_integer

logger = logging.getLogger(__name__)
Loss = Callable[[Tensor, Tensor], Tensor]


class Stateful(Protocol):
    """An object with state that the next step depends on besides the network, such as a `Method`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`."""


@dataclass(frozen=True)
class Fitted:
    """The result of a training: its `seconds`, without `on_log`, and the last `loss`."""

    seconds: float
    loss: float


def fit(
    name: str,
    model: nn.Module,
    loss: Loss,
    batches: BatchSource,
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    path: Path,
    identity: dict[str, Any],
    progress: Progress,
    stop: Stop,
    every: int = 500,
    log_every: int = 50,
    warmup: int = 0,
    settings: TrainerSettings | None = None,
    accelerator: Accelerator | None = None,
    parts: Mapping[str, Stateful] | None = None,
    after_step: Callable[[], None] | None = None,
    on_log: Callable[[int, float, float], None] | None = None,
    memory_advice: str = "lower batch_size",
) -> Fitted:
    """Train `model` in place, resuming from `path` if an earlier call was interrupted.

    Args:
        name: of the network, for progress and errors.
        model: the network, possibly wrapped in DistributedDataParallel.
        loss: maps images `(B, C, H, W)` and labels `(B,)` of a micro-batch to a scalar.
        batches: endless batches.
        steps: number of optimiser steps.
        learning_rate: of Adam, at the start of the cosine decay.
        seed: of dropout and other global random draws.
        path: of the checkpoint; the caller removes it once the result is stored elsewhere.
        identity: every setting that the result depends on; a checkpoint with another one is refused.
        progress: a running progress display.
        stop: checked after each step; on a stop the state is saved.
        every: steps between two checkpoints.
        log_every: steps between two calls of `on_log`.
        warmup: number of steps with a linearly rising learning rate before the cosine decay.
        settings: number of micro-batches and decay of the weight average; the precision is the accelerator's.
        accelerator: of `distributed_training`; None: full precision, in this process alone, whatever the others do.
        parts: further state that is saved and loaded with the network.
        after_step: called after each optimiser step.
        on_log: called with the step, the mean loss over the processes, and the seconds so far.
        memory_advice: what to change if memory runs out, for the error message.

    Raises:
        KeyboardInterrupt: a stop was requested; the state is saved.
        FloatingPointError: the loss is not finite.
        torch.OutOfMemoryError: the error says what reduces the memory use.
        ValueError: the checkpoint is damaged, or of another configuration.
    """
    loop = Loop(
        model,
        batches,
        steps=steps,
        learning_rate=learning_rate,
        warmup=warmup,
        settings=settings or TrainerSettings(),
        accelerator=accelerator,
    )
    torch.manual_seed(seed)
    parts, seconds, device, alone = parts or {}, 0.0, next(model.parameters()).device, accelerator is None
    state = checkpoint.load(path, identity)
    if state is not None:
        try:
            loop.load_state_dict(state["loop"])
            for key, part in parts.items():
                part.load_state_dict(state["parts"][key])
            seconds = state["seconds"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(
                f"{path} does not fit {name}, whose code may have changed since ({reason}); remove it to start again"
            ) from error
        logger.info("%s: resumed from step %d of %d", name, loop.step, steps)
    bar = progress.task(name, total=steps, completed=loop.step)
    last = float("nan")
    started = time.perf_counter()
    while loop.step < steps:
        with explain_out_of_memory(memory_advice):
            found = loop.train_step(loss)
            if after_step is not None:
                after_step()
        logs = loop.step % log_every == 0 or loop.step == steps
        if logs:
            last = float(found) if alone else distributed.all_reduce_mean({"loss": float(found)})["loss"]
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if not last - last == 0:
                raise FloatingPointError(f"{name}: the loss is {last} at step {loop.step}; lower the learning rate")
        seconds += time.perf_counter() - started  # the rest of the loop's body is not training time
        stopped = stop.requested if alone else distributed.any_process(stop.requested)
        if loop.step == steps:
            loop.finish()
        if logs:
            bar.update(loop.step, note=f"loss {last:.3f}")
            if on_log is not None:
                on_log(loop.step, last, seconds)
        if stopped or loop.step % every == 0 or loop.step == steps:
            kept = {"loop": loop.state_dict(), "parts": {key: part.state_dict() for key, part in parts.items()}}
            if alone or distributed.rank() == 0:
                checkpoint.save(path, {"config": identity, "seconds": seconds, **kept})
            if not alone:
                distributed.barrier()
        if stopped:
            raise KeyboardInterrupt
        started = time.perf_counter()
    return Fitted(seconds, last)


class Loop:
    """Optimiser steps of one network, with their resumable state; see `fit` for the arguments."""

    def __init__(
        self,
        model: nn.Module,
        batches: BatchSource,
        *,
        steps: int,
        learning_rate: float,
        warmup: int,
        settings: TrainerSettings,
        accelerator: Accelerator | None,
    ) -> None:
        check_integer(steps=steps)
        self.model, self.batches, self.settings, self.accelerator, self.step = model, batches, settings, accelerator, 0
        self._network = unwrap_model(model)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, steps - warmup))
        self.scheduler: torch.optim.lr_scheduler.LRScheduler = cosine
        if warmup:
            rising = torch.optim.lr_scheduler.LinearLR(self.optimizer, 0.01, 1.0, warmup)
            self.scheduler = torch.optim.lr_scheduler.SequentialLR(self.optimizer, [rising, cosine], [warmup])
        self._stepper: Any = self.optimizer if accelerator is None else accelerator.prepare_optimizer(self.optimizer)
        self._scaler = None if accelerator is None else accelerator.scaler
        if accelerator is not None and self._scaler is not None:  # there is only one; another network may have used it
            self._scaler.load_state_dict(torch.amp.GradScaler(accelerator.device.type).state_dict())
        self._average: AveragedModel | None = None
        if settings.ema:
            decay = get_ema_multi_avg_fn(settings.ema)
            self._average = AveragedModel(self._network, multi_avg_fn=decay, use_buffers=True)

    def train_step(self, loss: Loss) -> Tensor:
        """Take one optimiser step on all micro-batches of the next batch; return the mean of their losses."""
        self.model.train()
        batch, count = self.batches.next(), self.settings.accumulate
        size = -(-len(batch) // count)
        losses = []
        self._stepper.zero_grad()
        for start in range(0, len(batch), size):
            part = batch[slice(start, start + size)]
            if self.accelerator is None:
                value = loss(part.images, part.labels)
                (value / count if count > 1 else value).backward()
            else:
                with self.accelerator.accumulate(self.model):
                    with self.accelerator.autocast():
                        value = loss(part.images, part.labels)
                    self.accelerator.backward(value)
            losses.append(value.detach())
        self._stepper.step()
        if not getattr(self._stepper, "step_was_skipped", False):  # skipped after an overflow in float16
            self.scheduler.step()
            if self._average is not None:
                self._average.update_parameters(self._network)
        self.step += 1
        return losses[0] if count == 1 else torch.stack(losses).mean()

    def finish(self) -> None:
        """Replace the weights by their average, if there is one."""
        if self._average is not None:
            self._network.load_state_dict(self._average.module.state_dict())

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
        for part in ("optimizer", "scheduler", "batches"):
            getattr(self, part).load_state_dict(state[part])
        self._network.load_state_dict(state["model"])
        self.step = state["step"]
        torch.set_rng_state(state["rng"].cpu())
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if self._scaler is not None and state["scaler"] is not None:
            self._scaler.load_state_dict(state["scaler"])
        if "cuda_rng" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_rng"].cpu())


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
