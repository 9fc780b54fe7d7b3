"""Schedules: when the augmenter ascends and when the student descends.

| schedule | where the ascent's gradient comes from | cost beside distillation on two views |
|---|---|---|
| `Alternating` | own passes through both networks, inside the call | K of those, every n-th call |
| `Threshold` | the same, only while the student keeps up | one or two forwards of the student, and those |
| `Joint` | the student's from the user's backward, the teacher's from one over a fraction | the fraction |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Schedule:
    """What all schedules share.

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

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)
        if not isinstance(self.teacher_gradient, bool):
            raise TypeError(f"teacher_gradient={self.teacher_gradient!r}: wanted True or False")


@dataclass(frozen=True, slots=True)
class Threshold(Schedule):
    """Ascend until the hard views are hard enough, then leave the student to them until they are not.

    The switch between two bounds is what is known of the schedule of HARD (arXiv:2305.14890); the quantity, the bounds
    and the caps are ours. With m the running mean of the disagreement on *clean* images, what distillation alone has
    left over: a call ascends until the disagreement on hard images exceeds `high * m`, or `max_steps` times. From then
    on calls only draw, until its running mean is under `low * m`, or `max_rest` calls have gone by. Every call returns
    a batch to train on, so neither side can stall the other.

    It serves objectives that are divergences (at least 0, and 0 only where the players agree). On a GPU each call waits
    for the device.

    Attributes:
        low, high: multiples of the clean disagreement, 0 < low <= high.
        max_steps: ascents within one call, at least 1.
        max_rest: calls in turn without an ascent, at least 1; with `every`, of every n-th.
        decay: of the running means, in [0, 1).
    """

    low: float = 2.0
    high: float = 4.0
    max_steps: int = 4
    max_rest: int = 20
    decay: float = 0.9

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)
        if not (0 < self.low <= self.high and math.isfinite(self.high)):
            raise ValueError(f"low={self.low}, high={self.high}: wanted 0 < low <= high")
        for name, value in (("max_steps", self.max_steps), ("max_rest", self.max_rest)):
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name}={value}: wanted a whole number of at least 1")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay={self.decay}: wanted a number in [0, 1)")


@dataclass(slots=True)
class Phase:
    """Where a `Threshold` stands. Disagreements that are not finite count for nothing.

    Attributes:
        ascending: whether calls ascend.
        clean, hard: running means of the disagreement on clean and on hard images; None: none yet.
        rested: calls since the last ascent.
    """

    ascending: bool = True
    clean: float | None = None
    hard: float | None = None
    rested: int = 0

    def see_clean(self, disagreement: float, schedule: Threshold) -> None:
        """Take note of a batch's mean disagreement on clean images."""
        if math.isfinite(disagreement):
            self.clean = _running(self.clean, disagreement, schedule.decay)

    def ascended(self, disagreement: float, schedule: Threshold) -> bool:
        """Take note of an ascent's mean disagreement on hard images; whether the call goes on ascending."""
        if self.clean is not None and math.isfinite(disagreement) and disagreement > schedule.high * self.clean:
            self.ascending, self.hard, self.rested = False, disagreement, 0
        return self.ascending

    def drew(self, disagreement: float, schedule: Threshold) -> None:
        """Take note of the mean disagreement on the hard images of a call without an ascent."""
        if math.isfinite(disagreement):
            self.hard = _running(self.hard, disagreement, schedule.decay)
        self.rested += 1
        if self.rested >= schedule.max_rest or (self.hard or 0.0) < schedule.low * (self.clean or 0.0):
            self.ascending, self.rested = True, 0

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"ascending": self.ascending, "clean": self.clean, "hard": self.hard, "rested": self.rested}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()`."""
        self.ascending, self.rested = bool(state["ascending"]), int(state["rested"])
        self.clean, self.hard = state["clean"], state["hard"]


def _running(mean: float | None, value: float, decay: float) -> float:
    return value if mean is None else decay * mean + (1 - decay) * value
