"""Threshold: update the policy until the hard images are hard enough, then leave the student to them.

Switching between two bounds is what is known of the schedule of HARD (arXiv:2305.14890); the quantity, the bounds and
the caps are ours.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hard_aug.inner_loop.adversary import Adversary
from hard_aug.inner_loop.clean_batch import CleanBatch
from hard_aug.objectives import Reference
from hard_aug.schedules.base import Schedule, ScheduleRunner
from hard_aug.utils.checks import check_integer, is_integer


@dataclass(frozen=True, slots=True)
class Threshold(Schedule):
    """Update the policy while the disagreement on hard images is below a multiple of that on clean images.

    With m the running mean of the disagreement on *clean* images, which distillation alone would reduce: a call updates
    the policy until the disagreement on hard images exceeds `high * m`, or `max_steps` times. From then on calls only
    sample, until its running mean is below `low * m`, or `max_idle_calls` calls have passed. Every call returns a batch
    to train on, so neither side can stall the other.

    It requires an objective that is a divergence (at least 0, and 0 only where the networks agree). Each call
    synchronises with the device.

    Attributes:
        every: follow the schedule at every n-th call only, from the first on; at least 1.
        fraction: fraction of the batch, in (0, 1], that the policy's gradient comes from (at least one image).
        low: lower bound, a multiple of the disagreement on clean images; 0 < low <= high.
        high: upper bound, likewise.
        max_steps: policy updates within one call, at least 1.
        max_idle_calls: consecutive calls without an update, at least 1; with `every`, of every n-th.
        decay: of the running means, in [0, 1).

    Example:
        >>> Threshold(max_steps=2)  # doctest: +ELLIPSIS
        Threshold(every=1, fraction=1.0, low=2.0, high=4.0, max_steps=2, ...)
    """

    requires_divergence: ClassVar[bool] = True
    requires_learned_policy: ClassVar[bool] = True
    student_forwards: ClassVar[int] = 1

    low: float = 2.0
    high: float = 4.0
    max_steps: int = 4
    max_idle_calls: int = 20
    decay: float = 0.9

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)
        if not (0 < self.low <= self.high and math.isfinite(self.high)):
            raise ValueError(f"low={self.low}, high={self.high}: expected 0 < low <= high")
        check_integer(max_steps=self.max_steps, max_idle_calls=self.max_idle_calls)
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay={self.decay}: expected a number in [0, 1)")

    def make_runner(self, adversary: Adversary) -> ScheduleRunner:
        """See `Schedule.make_runner`."""
        return ThresholdRunner(self, adversary)


@dataclass(slots=True)
class ThresholdState:
    """Whether calls update the policy, and the means that decide it. Disagreements that are not finite are ignored.

    Attributes:
        updating: whether calls update the policy.
        clean: running mean of the disagreement on clean images; None: none yet.
        hard: the same on hard images.
        idle_calls: calls since the last update.
    """

    updating: bool = True
    clean: float | None = None
    hard: float | None = None
    idle_calls: int = 0

    def record_clean(self, disagreement: float, schedule: Threshold) -> None:
        """Update the running mean with the mean disagreement on a batch of clean images."""
        if math.isfinite(disagreement):
            self.clean = _running_mean(self.clean, disagreement, schedule.decay)

    def record_update(self, disagreement: float, schedule: Threshold) -> bool:
        """Update the state with the disagreement at a policy update; return whether the call goes on updating."""
        if self.clean is not None and math.isfinite(disagreement) and disagreement > schedule.high * self.clean:
            self.updating, self.hard, self.idle_calls = False, disagreement, 0
        return self.updating

    def record_hard(self, disagreement: float, schedule: Threshold) -> None:
        """Update the running mean with the disagreement on the hard images of a call without an update."""
        if math.isfinite(disagreement):
            self.hard = _running_mean(self.hard, disagreement, schedule.decay)
        self.idle_calls += 1
        below = (self.hard or 0.0) < schedule.low * (self.clean or 0.0)
        if self.idle_calls >= schedule.max_idle_calls or below:
            self.updating, self.idle_calls = True, 0


class ThresholdRunner(ScheduleRunner):
    """Follows a `Threshold`.

    Args:
        schedule: its settings.
        adversary: what updates the policy and scores images.

    Attributes:
        state: where it stands.
    """

    def __init__(self, schedule: Threshold, adversary: Adversary) -> None:
        self._schedule, self._adversary = schedule, adversary
        self.state = ThresholdState()
        self._idle = False

    def before_sample(self, clean: CleanBatch) -> None:
        """See `ScheduleRunner.before_sample`."""
        adversary = self._adversary
        self._idle = not self.state.updating
        with torch.no_grad():
            disagreement = adversary.objective(
                teacher_logits=clean.reference.teacher_logits,
                student_logits=adversary.networks.student(clean.images),
                reference=clean.reference,
            )
        self.state.record_clean(self._mean(disagreement), self._schedule)
        for _ in range(self._schedule.max_steps if self.state.updating else 0):
            if not self.state.record_update(self._mean(adversary.update(clean)[None]), self._schedule):
                break

    def after_sample(self, clean: CleanBatch, hard_images: Tensor, reference: Reference) -> None:
        """See `ScheduleRunner.after_sample`."""
        if self._idle:
            disagreement = self._adversary.score(hard_images, reference).disagreement
            self.state.record_hard(self._mean(disagreement), self._schedule)

    def _mean(self, disagreement: Tensor) -> float:
        return self._adversary.optimizer.processes.mean_to_host(disagreement)

    def state_dict(self) -> dict[str, Any]:
        """Return the running means and counts."""
        return asdict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`."""
        if state.keys() != asdict(self.state).keys():
            raise ValueError(f"expected the state of a Threshold, got {sorted(state)}")
        finite = all(state[key] is None or math.isfinite(state[key]) for key in ("clean", "hard"))
        if not finite or not isinstance(state["updating"], bool) or not is_integer(state["idle_calls"]):
            raise ValueError(f"expected finite means, a boolean and a count, got {state}")
        self.state = ThresholdState(**state)


def _running_mean(mean: float | None, value: float, decay: float) -> float:
    return value if mean is None else decay * mean + (1 - decay) * value
