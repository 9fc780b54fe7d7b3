"""Train one network after the other, with one checkpoint that a stopped or killed run goes on from."""

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

from experiments import checkpoint
from experiments.data import Part
from experiments.stop import Stop
from experiments.training import Training

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """What a loss depends on beside the network, such as a `Method`."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Trainer:
    """Finished networks are kept whole, the one in training up to its last saved step.

    Args:
        path: of the checkpoint.
        identity: all that the outcome depends on.
        progress: a running bar.
        stop: asked after each step; then the state is kept and KeyboardInterrupt raised.
        resume: go on from the checkpoint, if there is one.
        every: steps between two checkpoints.

    Raises:
        ValueError: a checkpoint of another configuration.
    """

    def __init__(
        self, path: Path, identity: dict[str, Any], progress: Progress, stop: Stop, *, resume: bool, every: int
    ) -> None:
        self.path, self.progress, self.stop, self.every = path, progress, stop, every
        if not resume:
            path.unlink(missing_ok=True)
        self.state = checkpoint.load(path, identity)

    def finished(self, name: str) -> dict[str, Any] | None:
        """What is kept of a network that is trained, or None."""
        found: dict[str, Any] | None = self.state["finished"].get(name)
        return found

    def unfinished(self, name: str) -> Any:
        """What `begin` has kept of a piece of work that is no training; None: nothing."""
        current = self.state["current"]
        return current["parts"] if current is not None and current["name"] == name and "parts" in current else None

    def begin(self, name: str, parts: Any) -> None:
        """Keep what is done of a piece of work that is no training."""
        self.state["current"] = {"name": name, "parts": parts}
        checkpoint.save(self.path, self.state)

    def keep(self, name: str, value: dict[str, Any]) -> None:
        """Keep the outcome of a piece of work, whose parts are then of no more use."""
        current = self.state["current"]
        if current is not None and current["name"] == name:
            self.state["current"] = None
        self.state["finished"][name] = value
        checkpoint.save(self.path, self.state)

    def train(
        self,
        name: str,
        model: nn.Module,
        part: Part,
        settings: DictConfig,
        loss_of: Callable[[Tensor, Tensor], Tensor],
        *,
        seed: int,
        after_step: Callable[[], None] | None = None,
        extra: Stateful | None = None,
        decay: float = 0.0,
        log: Callable[[int], dict[str, float]] | None = None,
    ) -> dict[str, Any]:
        """Train `model` in place, or take up what a former run left.

        Args:
            name: of the network in the checkpoint.
            settings: with `steps`, `batch_size` and `learning_rate`.
            loss_of: images and labels to a scalar.
            after_step: called after the optimiser's step.
            extra: what else the next loss depends on.
            decay: of the moving mean of the weights that the model ends with; 0: it ends with its last ones.
            log: step to numbers, asked at each checkpoint and at the end; the last are returned as `log`.

        Returns:
            `seconds` of training, the moving mean of the `loss`, and `log`.
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
        mean = EMAModel(model.parameters(), decay=decay) if decay else None
        seconds, recent, current = 0.0, 0.0, self.state["current"]
        if current is not None and current["name"] == name:
            training.load_state_dict(current["training"])
            seconds, recent = current["seconds"], current["loss"]
            if mean is not None:
                mean.load_state_dict(current["mean"])
                mean.to(device=next(model.parameters()).device)
            if extra is not None:
                extra.load_state_dict(current["extra"])
        bar = self.progress.add_task(name, total=training.steps, completed=training.step, note="")

        def after() -> None:
            if after_step is not None:
                after_step()
            if mean is not None:
                mean.step(model.parameters())

        logged: dict[str, float] = {}
        started = time.perf_counter()
        for loss in training.run(loss_of, after):
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
                        "mean": None if mean is None else mean.state_dict(),
                        "extra": None if extra is None else extra.state_dict(),
                        "seconds": seconds,
                        "loss": recent,
                    }
                    checkpoint.save(self.path, self.state)
                started = time.perf_counter()
            if self.stop.requested and not last:
                raise KeyboardInterrupt
        if mean is not None:
            mean.copy_to(model.parameters())
        took = {"seconds": round(seconds, 1), "loss": round(recent, 5), "log": logged}
        state = None if extra is None else extra.state_dict()
        # Copies: the caller may train the same network on, under another name.
        self.keep(name, copy.deepcopy({"model": model.state_dict(), "took": took, "extra": state}))
        return took
