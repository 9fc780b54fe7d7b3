"""What is recorded while a student trains: scalars, the learned distribution, and test accuracies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from experiments.methods import Hard, Method
from experiments.training import distributed
from experiments.training.files import save_figure
from experiments.training.setup import Setup
from experiments.training.trackers import Trackers, trackers
from hard_aug.viz import PolicyHistory, draw_policy, draw_summary, gallery
from hard_aug.viz.policy import DRAWS

#: Number of test images from which the gallery shows the hardest.
GALLERY_IMAGES = 64


class TrainLog:
    """Records of one training; a part of its checkpoint.

    Args:
        method: the training method.
        student: the network.
        setup: test sets and validation images.
        folder: of the run, for the training curves; None: no curves.
        steps: of the training.
        batch_size: images of each step.
    """

    def __init__(
        self, method: Method, student: nn.Module, setup: Setup, folder: Path | None, *, steps: int, batch_size: int
    ) -> None:
        self.method, self.student, self.setup, self.folder = method, student, setup, folder
        self.steps, self.batch_size = steps, batch_size
        self.consistency: list[float] = []
        self.curve: list[dict[str, Any]] = []
        self.history = PolicyHistory(method.augmenter.transform.spec) if isinstance(method, Hard) else None
        self._step = 0
        self._trackers: Trackers | None = None

    def update(self, step: int, loss: float, seconds: float) -> None:
        """Record the state after a step.

        Args:
            step: number of steps so far.
            loss: of the last batch.
            seconds: of training so far.
        """
        config = self.setup.config
        every, last = config.eval_every if self.folder is not None else None, step == self.steps
        if every is not None and (step % every == 0 or last):
            evaluations = round(self.method.evaluations(step * self.batch_size))
            accuracy = self.setup.evaluate(self.student)
            point = {"step": step, "evaluations": evaluations, "seconds": round(seconds, 2), "accuracy": accuracy}
            self.curve.append(point)
        if step % config.log_every and not last:
            return
        scalars = distributed.all_reduce_mean({"loss": loss, **self.method.scalars()})
        if "teacher_consistency" in scalars:
            self.consistency.append(scalars["teacher_consistency"])
        if self.history is not None:
            self._record_policy(step)
            scalars |= self.history.scalars()
        if self._trackers is None and self.folder is not None and distributed.rank() == 0:
            names, settings = list(config.logger), config.logger_settings
            self._trackers = trackers(names, self.folder, self._step, settings=settings)
        if self._trackers is not None:
            self._trackers.log(step, scalars)
        self._step = step

    def close(self) -> None:
        """Close the trackers; also called when a run is stopped."""
        if self._trackers is not None:
            self._trackers.close()

    def record(self) -> dict[str, Any]:
        """Return the teacher's consistency over the second half of the training, and the accuracy curve."""
        found: dict[str, Any] = {}
        if self.consistency:
            second_half = self.consistency[len(self.consistency) // 2 :]
            found["teacher_consistency"] = round(sum(second_half) / len(second_half), 4)
        return found | ({"curve": self.curve} if self.curve else {})

    def learned_distribution(self) -> dict[str, dict[str, Any]]:
        """Return mean and standard deviation of each parameter at the end, shifts also in pixels."""
        if self.history is None:
            return {}
        last = self.history.last()
        for name, values in last.items():
            if name.startswith("translation"):
                values["sd_pixels"] = values["sd"] * self.setup.shape[-1]
        return last

    def draw(self, folder: Path) -> None:
        """Draw `gallery.png`, `policy.png` and `summary.png`, in the process of rank 0."""
        if not isinstance(self.method, Hard) or self.history is None or distributed.rank() != 0:
            return
        shown, classes = self.setup.splits.test[slice(0, GALLERY_IMAGES)].materialize(), self.setup.splits.classes
        hard = self.method.augmenter.generate(shown.images, shown.labels)
        save_figure(gallery(hard, self.student, classes=classes, labels=shown.labels), folder / "gallery.png", 130)
        title = "Learned augmentation distribution during training"
        save_figure(draw_policy(self.history, title=title), folder / "policy.png", 110)
        save_figure(draw_summary(self.method.augmenter.summary(shown.images)), folder / "summary.png", 110)

    def state_dict(self) -> dict[str, Any]:
        """Return all records."""
        history = None if self.history is None else self.history.state_dict()
        lists = {"consistency": list(self.consistency), "curve": list(self.curve)}
        return {"step": self._step, **lists, "history": history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`."""
        self._step, self.consistency, self.curve = state["step"], list(state["consistency"]), list(state["curve"])
        if self.history is not None:
            self.history.load_state_dict(state["history"])

    def start(self) -> None:
        """Record the policy before the first step."""
        if self.history is not None:
            self._record_policy(0)

    def _record_policy(self, step: int) -> None:
        if self.history is None or not isinstance(self.method, Hard):
            return
        augmenter, shown = self.method.augmenter, self.setup.splits.validation[slice(0, DRAWS)]
        images = shown.materialize().images if augmenter.policy.is_conditional else None
        self.history.record(step, augmenter, images)
