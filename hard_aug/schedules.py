"""Schedules: when the augmenter ascends and when the student descends.

| schedule | where the ascent's gradient comes from | cost beside distillation on two views |
|---|---|---|
| `Alternating` | own passes through both networks, inside the call | K of those, every n-th call |
| `Joint` | the student's from the user's backward, the teacher's from one over a fraction | the fraction |
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """What both schedules share.

    Attributes:
        every: ascend at every n-th call only, from the first on.
        fraction: the share of the batch, in (0, 1], that the policy's gradient comes from (at least one image).
    """

    every: int = 1
    fraction: float = 1.0

    def __post_init__(self) -> None:
        if not (isinstance(self.every, int) and self.every >= 1):
            raise ValueError(f"every={self.every}: wanted a whole number of at least 1")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction}: wanted a number in (0, 1]")

    def due(self, call: int) -> bool:
        """Whether call number `call`, from 0, comes with an ascent."""
        return call % self.every == 0

    def share(self, batch: int) -> int:
        """How many images of a batch the policy's gradient comes from."""
        return min(batch, max(1, round(self.fraction * batch)))


@dataclass(frozen=True, slots=True)
class Alternating(Schedule):
    """K ascent steps inside the call, each on a fresh draw; detached images come back.

    Attributes:
        steps: K, at least 1.
    """

    steps: int = 1

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)
        if not (isinstance(self.steps, int) and self.steps >= 1):
            raise ValueError(f"steps={self.steps}: wanted a whole number of at least 1")


@dataclass(frozen=True, slots=True)
class Joint(Schedule):
    """One student backward serves both players ("free" adversarial training: Shafahi et al., arXiv:1904.12843).

    `hard.images` is a leaf whose gradient a hook captures in the user's backward; `HardAugmenter.step` then adds the
    teacher's part and ascends. Serves objectives whose student part is the outer loss on the hard view (`KL`).

    Attributes:
        teacher_gradient: add the teacher's part of the disagreement and the invariance. Without it the policy sees only
            the student, and nothing keeps the teacher's answer.
    """

    teacher_gradient: bool = True
