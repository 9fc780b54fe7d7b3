"""Base of the schedules: settings, and the runner that follows them for one augmenter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from hard_aug.inner_loop.adversary import Adversary
from hard_aug.inner_loop.clean_batch import CleanBatch
from hard_aug.losses.two_view import LossObserver
from hard_aug.objectives import Reference
from hard_aug.utils.checks import check_fraction, check_integer, store_as_python
from hard_aug.utils.rows import rows_of


@dataclass(frozen=True, slots=True)
class Schedule(ABC):
    """Settings that all schedules share. Subclasses say what happens in a call, by `make_runner`.

    Attributes:
        every: update the policy at every n-th call only, from the first on; at least 1.
        fraction: fraction of the batch, in (0, 1], that the policy's gradient comes from (at least one image).

    Example:
        >>> from hard_aug.schedules import Schedule, ScheduleRunner
        >>> class UpdateOnce(ScheduleRunner):
        ...     def __init__(self, adversary):
        ...         self.adversary = adversary
        ...
        ...     def before_sample(self, clean):
        ...         self.adversary.update(clean)
        >>> @dataclass(frozen=True)
        ... class FirstCalls(Schedule):
        ...     calls: int = 1000
        ...
        ...     def is_due(self, call):
        ...         return call < self.calls and super().is_due(call)
        ...
        ...     def make_runner(self, adversary):
        ...         return UpdateOnce(adversary)
        >>> FirstCalls(every=2, calls=3)
        FirstCalls(every=2, fraction=1.0, calls=3)
        >>> [FirstCalls(every=2, calls=3).is_due(call) for call in range(5)]
        [True, False, True, False, False]
    """

    #: Whether it compares with multiples of the objective on clean images, so that this has to be a divergence.
    requires_divergence: ClassVar[bool] = False
    #: Whether it takes the student's gradient from the distillation loss, so that this has to be the objective.
    requires_distillation_loss: ClassVar[bool] = False
    #: Whether the policy has to have parameters to learn, and none that are optimised for each image by itself.
    requires_learned_policy: ClassVar[bool] = False

    #: Forwards of the student on the fraction, in each call that is due, beside those of policy updates.
    student_forwards: ClassVar[int] = 0

    every: int = 1
    fraction: float = 1.0

    def __post_init__(self) -> None:
        store_as_python(self)
        check_integer(every=self.every)
        check_fraction(fraction=self.fraction)

    def is_due(self, call: int) -> bool:
        """Return whether the policy may be updated in call number `call`, counted from 0."""
        return call % self.every == 0

    @property
    def updates_per_call(self) -> int | None:
        """Number of policy updates in each call that is due; None: decided during training."""
        return None

    def rows(self, batch: int) -> int:
        """Return how many images of a batch the policy's gradient comes from."""
        return rows_of(self.fraction, batch)

    @abstractmethod
    def make_runner(self, adversary: Adversary) -> ScheduleRunner:
        """Create what follows this schedule for one augmenter."""


class ScheduleRunner(ABC):
    """What a schedule does in the calls that are due, with its state. Most schedules have none.

    Example:
        >>> from hard_aug.schedules import ScheduleRunner
        >>> class FewUpdates(ScheduleRunner):
        ...     def __init__(self, adversary, budget):
        ...         self.adversary, self.budget = adversary, budget
        ...
        ...     def before_sample(self, clean):
        ...         if self.budget > 0:
        ...             self.adversary.update(clean)
        ...             self.budget -= 1
        ...
        ...     def state_dict(self):
        ...         return {"budget": self.budget}
        ...
        ...     def load_state_dict(self, state):
        ...         self.budget = state["budget"]
        >>> FewUpdates(adversary=None, budget=100).state_dict()
        {'budget': 100}
    """

    @abstractmethod
    def before_sample(self, clean: CleanBatch) -> None:
        """Update the policy, before the hard images of this call are drawn.

        Args:
            clean: the schedule's fraction of the batch.
        """

    def after_sample(self, clean: CleanBatch, hard_images: Tensor, reference: Reference) -> LossObserver | None:
        """Update the state with the call's hard images; return an observer of losses on them, if any.

        Args:
            clean: the clean images that they were made of.
            hard_images: `(n, C, H, W)`, all hard images of the call.
            reference: what predictions on them are compared with.
        """
        return None

    def flush(self) -> None:  # noqa: B027 - most have nothing to do
        """Finish, before the next call or a `state_dict`, what the last call has left to do."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as numbers, booleans and None."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`; raise `ValueError` for that of another schedule."""
        if state:
            raise ValueError(f"expected the state of a schedule that has none, got {sorted(state)}")
