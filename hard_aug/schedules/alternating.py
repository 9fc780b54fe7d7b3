"""Alternating: a fixed number of policy updates at every n-th call."""

from __future__ import annotations

from dataclasses import dataclass

from hard_aug.inner_loop.adversary import Adversary
from hard_aug.inner_loop.clean_batch import CleanBatch
from hard_aug.schedules.base import Schedule, ScheduleRunner
from hard_aug.utils.checks import check_integer


@dataclass(frozen=True, slots=True)
class Alternating(Schedule):
    """K steps of gradient ascent, each on a new sample, at every n-th call.

    Attributes:
        every: update the policy at every n-th call only, from the first on; at least 1.
        fraction: fraction of the batch, in (0, 1], that the policy's gradient comes from (at least one image).
        steps: K, at least 1.

    Example:
        >>> Alternating(fraction=0.25, every=6)
        Alternating(every=6, fraction=0.25, steps=1)
    """

    steps: int = 1

    def __post_init__(self) -> None:
        Schedule.__post_init__(self)
        check_integer(steps=self.steps)

    @property
    def updates_per_call(self) -> int:
        """See `Schedule.updates_per_call`."""
        return self.steps

    def make_runner(self, adversary: Adversary) -> ScheduleRunner:
        """See `Schedule.make_runner`."""
        return _AlternatingRunner(self, adversary)


class _AlternatingRunner(ScheduleRunner):
    def __init__(self, schedule: Alternating, adversary: Adversary) -> None:
        self._adversary = adversary
        self._steps = schedule.steps if adversary.optimizer.learns else 0

    def before_sample(self, clean: CleanBatch) -> None:
        for _ in range(self._steps):
            self._adversary.update(clean)
