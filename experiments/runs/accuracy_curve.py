"""Test accuracy during a student's training, against steps, network evaluations and seconds."""

from __future__ import annotations

from typing import Any

from torch import nn

from experiments.methods.base import Method
from experiments.training.accuracy import accuracies
from hard_aug.data import ImageSet


class Curve:
    """The accuracy curve of a student. Evaluating it counts neither as seconds nor as network evaluations.

    Args:
        every: steps between two points; None: no points.
        steps: of the whole training; the last step always has a point.
        batch_size: images of each step.
        sets: test sets by name.
    """

    def __init__(self, every: int | None, *, steps: int, batch_size: int, sets: dict[str, ImageSet]) -> None:
        self.every, self.steps, self.batch_size, self.sets = every, steps, batch_size, sets
        self.points: list[dict[str, Any]] = []

    def is_due(self, step: int) -> bool:
        """Return whether there is a point after `step` steps."""
        return self.every is not None and (step % self.every == 0 or step >= self.steps)

    def record(self, step: int, seconds: float, method: Method, student: nn.Module) -> None:
        """Add a point if one is due.

        Args:
            step: number of steps so far.
            seconds: of training so far.
            method: counts the network evaluations.
            student: the network to be evaluated.
        """
        if not self.is_due(step):
            return
        evaluations = round(method.evaluations(step * self.batch_size))
        point = {"step": step, "evaluations": evaluations, "seconds": round(seconds, 2)}
        self.points.append(point | accuracies(student, self.sets))
