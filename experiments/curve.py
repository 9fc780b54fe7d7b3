"""Accuracy on the test sets while a student trains, against steps, network evaluations and seconds."""

from __future__ import annotations

from typing import Any

from torch import nn

from experiments.data import Part
from experiments.evaluation import accuracies
from experiments.methods import Method


class Curve:
    """Points of a student's curve. Evaluating counts neither as seconds nor as evaluations.

    Args:
        every: steps from one point to the next; None: there are none.
        steps: of the whole training; the last step has a point in any case.
        batch_size: images a step.
        sets: test sets by name.
    """

    def __init__(self, every: int | None, *, steps: int, batch_size: int, sets: dict[str, Part]) -> None:
        self.every, self.steps, self.batch_size, self.sets = every, steps, batch_size, sets
        self.points: list[dict[str, Any]] = []

    def due(self, step: int) -> bool:
        """Whether there is a point after `step` steps."""
        return self.every is not None and (step % self.every == 0 or step >= self.steps)

    def see(self, step: int, seconds: float, method: Method, student: nn.Module) -> None:
        """Add a point, if one is due after `step` steps and so many seconds of training."""
        if not self.due(step):
            return
        evaluations = round(method.evaluations(step * self.batch_size))
        point = {"step": step, "evaluations": evaluations, "seconds": round(seconds, 2)}
        self.points.append(point | accuracies(student, self.sets))
