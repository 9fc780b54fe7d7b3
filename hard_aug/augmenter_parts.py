"""AugmenterParts: what can be read off a `HardAugmenter`: its parts, its counts, and what its policy shows."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor

from hard_aug.calibration import Calibration
from hard_aug.calibration.first_calls import FirstCalls
from hard_aug.inner_loop.adversary import Adversary
from hard_aug.inner_loop.exploration import Exploration
from hard_aug.inner_loop.image_check import ImageCheck
from hard_aug.inner_loop.policy_optimizer import PolicyOptimizer
from hard_aug.objectives import Disagreement, Invariance
from hard_aug.policies import Policy
from hard_aug.schedules import Schedule
from hard_aug.summary import PolicySummary, summarize
from hard_aug.transforms import Transform
from hard_aug.utils.copying import HoldsNetworks
from hard_aug.utils.running_mean import RunningMean


class AugmenterParts(HoldsNetworks):
    """Base class of `HardAugmenter`, which sets the attributes.

    Attributes:
        schedule: when the policy is updated.
        exploration: the defence against collapse.
    """

    schedule: Schedule
    exploration: Exploration
    _adversary: Adversary
    _check: ImageCheck
    _first_calls: FirstCalls
    _kept: RunningMean
    _optimizer: PolicyOptimizer
    _settings: dict[str, Any]

    @property
    def transform(self) -> Transform:
        """What may be done to an image."""
        return self._adversary.transform

    @property
    def objective(self) -> Disagreement:
        """What is maximised."""
        return self._adversary.objective

    @property
    def policy(self) -> Policy:
        """Where the transform's parameters come from."""
        return self._optimizer.policy

    @property
    def invariance(self) -> Invariance:
        """How the teacher's prediction is kept."""
        return self._optimizer.invariance

    @property
    def calibration(self) -> Calibration | None:
        """The ranges that the policy started from; None: not calibrated, or not yet."""
        return self._first_calls.calibration

    @property
    def dropped_steps(self) -> int:
        """Number of policy updates dropped for a gradient that was not finite. Synchronises with the device."""
        return int(self._optimizer.dropped)

    @property
    def uniform_fraction(self) -> float:
        """Fraction of draws that are uniform instead of the policy's, in [0, 0.95]. Synchronises with the device.

        It is `exploration.min_uniform_fraction` while the policy's variance is large enough. If it rises, the teacher
        has too little invariance, within the transform's ranges, to transfer; see `hard_aug.inner_loop.exploration`.
        """
        return float(self._optimizer.uniform_fraction)

    def __copy__(self) -> NoReturn:
        raise TypeError("a shallow copy would draw from the generator of the original; use copy.deepcopy(augmenter)")

    def __repr__(self) -> str:
        names = ("transform", "policy", "objective", "invariance", "schedule", "exploration")
        parts = [f"{name}={getattr(self, name)!r}" for name in names]
        parts += [f"{name}={value!r}" for name, value in self._settings.items()]
        return (
            "HardAugmenter(\n" + "".join(f"  {part},\n".replace("\n", "\n  ", part.count("\n")) for part in parts) + ")"
        )

    def summary(self, images: Tensor | None = None) -> PolicySummary:
        """Return which groups of parameters the policy uses now, how often and how far; printed, it is a table.

        It changes nothing, runs neither network and waits for no other process. The rate of kept predictions and the
        mean disagreement are those of this process's last calls, which no `state_dict` holds: they start anew in a
        resumed run. Synchronises with the device.

        Args:
            images: as in a call, for a conditional policy: the summary is over these.

        Raises:
            ValueError: a conditional policy gets no images; for images as in a call.
        """
        return summarize(
            self.transform,
            self.policy,
            calibration=self.calibration,
            uniform_fraction=self.uniform_fraction,
            kept=self._kept.value,
            disagreement=self._adversary.disagreement.value,
            images=None if images is None else self._check(images, takes_gradients=False),
        )
