"""Train several networks one after the other with one checkpoint, from which a stopped or killed run resumes."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from diffusers.training_utils import EMAModel
from omegaconf import DictConfig
from rich.progress import Progress
from torch import Tensor, nn

from experiments.training import checkpoint
from experiments.training.interrupts import Stop
from experiments.training.loop import Training
from hard_aug.data import ImageSet

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """An object with state that a loss depends on besides the network, such as a `Method`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`."""


class Trainer:
    """Train networks by name; finished ones are stored whole, the current one up to its last saved step.

    Args:
        path: of the checkpoint.
        identity: all settings that the outcome depends on.
        progress: a running progress bar.
        stop: checked after each step; on a stop the state is saved and KeyboardInterrupt raised.
        resume: resume from the checkpoint, if there is one.
        every: steps between two checkpoints.

    Raises:
        ValueError: the checkpoint is of another configuration.
    """

    def __init__(
        self, path: Path, identity: dict[str, Any], progress: Progress, stop: Stop, *, resume: bool, every: int
    ) -> None:
        self.path, self.progress, self.stop, self.every = path, progress, stop, every
        if not resume:
            path.unlink(missing_ok=True)
        self.state = checkpoint.load(path, identity)

    def finished(self, name: str) -> dict[str, Any] | None:
        """Return the stored result of a finished network or other work, or None."""
        return self.state["finished"].get(name)

    def load_partial(self, name: str) -> Any:
        """Return the intermediate result stored by `save_partial` under this name, or None."""
        current = self.state["current"]
        return current["parts"] if current is not None and current["name"] == name and "parts" in current else None

    def save_partial(self, name: str, parts: Any) -> None:
        """Store an intermediate result of work other than training, such as image generation.

        Args:
            name: of the work.
            parts: the intermediate result.
        """
        self.state["current"] = {"name": name, "parts": parts}
        checkpoint.save(self.path, self.state)

    def save_finished(self, name: str, value: dict[str, Any]) -> None:
        """Store the final result of some work and drop its intermediate result.

        Args:
            name: of the network or other work.
            value: the result.
        """
        current = self.state["current"]
        if current is not None and current["name"] == name:
            self.state["current"] = None
        self.state["finished"][name] = value
        checkpoint.save(self.path, self.state)

    def train(
        self,
        name: str,
        model: nn.Module,
        part: ImageSet,
        settings: DictConfig,
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        *,
        seed: int,
        after_step: Callable[[], None] | None = None,
        extra: Stateful | None = None,
        decay: float = 0.0,
        log: Callable[[int], dict[str, float]] | None = None,
    ) -> dict[str, Any]:
        """Train `model` in place, resuming from the checkpoint if an earlier run was interrupted.

        Args:
            name: of the network in the checkpoint.
            model: the network.
            part: training images and labels.
            settings: with `steps`, `batch_size` and `learning_rate`.
            loss_fn: maps images and labels to a scalar loss.
            seed: of the order of the batches, and of dropout.
            after_step: called after each optimiser step.
            extra: further state that the next loss depends on.
            decay: of the exponential moving average of the weights that the model ends with; 0: off.
            log: maps a step to numbers to be logged; called at each checkpoint and at the end.

        Returns:
            `seconds` of training, the moving average of the `loss`, and the last numbers of `log`.
        """
        finished = self.finished(name)
        if finished is not None:
            model.load_state_dict(finished["model"])
            return dict(finished["took"])
        training = Training(
            model,
            part,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            seed=seed,
            warmup=settings.steps // 20,
        )
        average = EMAModel(model.parameters(), decay=decay) if decay else None
        seconds, recent, current = 0.0, 0.0, self.state["current"]
        if current is not None and current["name"] == name:
            training.load_state_dict(current["training"])
            seconds, recent = current["seconds"], current["loss"]
            if average is not None:
                average.load_state_dict(current["average"])
                average.to(device=next(model.parameters()).device)
            if extra is not None:
                extra.load_state_dict(current["extra"])
        bar = self.progress.add_task(name, total=training.steps, completed=training.step, note="")

        def after() -> None:
            if after_step is not None:
                after_step()
            if average is not None:
                average.step(model.parameters())

        logged: dict[str, float] = {}
        started = time.perf_counter()
        for loss in training.run(loss_fn, after):
            recent = float(loss) if training.step == 1 else 0.98 * recent + 0.02 * float(loss)
            self.progress.update(bar, completed=training.step, note=f"loss {recent:.4f}")
            last = training.step == training.steps
            if self.stop.requested or training.step % self.every == 0 or last:
                seconds += time.perf_counter() - started
                logged = {} if log is None else log(training.step)
                numbers = "".join(f", {key} {value:.3f}" for key, value in logged.items())
                logger.info("%s: step %d of %d, loss %.4f%s", name, training.step, training.steps, recent, numbers)
                if not last:
                    self.state["current"] = {
                        "name": name,
                        "training": training.state_dict(),
                        "average": None if average is None else average.state_dict(),
                        "extra": None if extra is None else extra.state_dict(),
                        "seconds": seconds,
                        "loss": recent,
                    }
                    checkpoint.save(self.path, self.state)
                started = time.perf_counter()
            if self.stop.requested and not last:
                raise KeyboardInterrupt
        if average is not None:
            average.copy_to(model.parameters())
        took = {"seconds": round(seconds, 1), "loss": round(recent, 5), "log": logged}
        state = None if extra is None else extra.state_dict()
        # Copies: the caller may continue to train the same network under another name.
        self.save_finished(name, copy.deepcopy({"model": model.state_dict(), "took": took, "extra": state}))
        return took
