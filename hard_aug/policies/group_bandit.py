"""GroupBandit: few groups of parameters for each image, more often those on which the student disagrees.

RandAugment (Cubuk et al., arXiv:1909.13719) applies few operations to an image, all equally often. Here the groups of a
transform's parameters take the place of operations, each is drawn uniformly from its range, and how often it is used
is learned: in proportion to a power of the disagreement that it causes where the teacher keeps its prediction. Groups
that the student has learned to follow are used less, those of which there is more to learn are used more.

Only scores of draws are needed, no gradient, so the teacher, the student and the transform need not have any.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hard_aug.ops.elementwise import at_fraction, scale_sides, unit_interval
from hard_aug.policies.base import Policy
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.checks import check_nonnegative, check_positive_number, check_unit_interval, is_integer
from hard_aug.utils.rng import randn

#: Weight of the prior, in observed images for each group: that all groups cause equal disagreement.
PRIOR = 1.0


class GroupBandit(Policy):
    """One to three groups of parameters an image, uniform in their ranges; the others are at the identity.

    What a change adds to the disagreement on the clean image is modelled as a sum over the groups in use, fitted by
    least squares to the images of past updates, which count less with age.

    It learns from images on which the teacher keeps its prediction, and others count 0. So an `Invariance` has no
    effect, and its multiplier stays as it is: the calibration of the ranges is what keeps the teacher's predictions.

    Args:
        spec: the transform's parameters, `transform.spec`; their `group` says what is used together.
        groups: the smallest and the largest number of groups for an image; the number is drawn uniformly. Of fewer
            groups than these, all are used.
        power: of the disagreement, at least 0; 0: all groups are used equally often.
        floor: fraction of the choices, in [0, 1], that is equal for all groups.
        memory: number of updates after which an image counts 1/e.

    Attributes:
        reach: `(P, 2)`, the part of each range below and above the identity that is used, in [0, 1]; see
            `set_reach`.
        weights: `(G,)`, the relative frequency of each group; sums to 1.
        names: of the G groups.

    Raises:
        ValueError: settings out of range.

    Example:
        >>> from hard_aug.transforms import menu
        >>> policy = GroupBandit(menu().spec, groups=(1, 2))
        >>> u = policy.sample(torch.rand(64, 3, 28, 28), torch.Generator().manual_seed(0))
        >>> used = policy.used_groups(u).sum(1)
        >>> int(used.min()), int(used.max())
        (1, 2)
    """

    starts_from_reach = True
    learns_from_scores = True
    membership: Tensor
    reach: Tensor
    weights: Tensor
    moments: Tensor
    targets: Tensor

    def __init__(
        self,
        spec: tuple[Parameter, ...],
        *,
        groups: tuple[int, int] = (1, 3),
        power: float = 2.0,
        floor: float = 0.1,
        memory: float = 20.0,
    ) -> None:
        super().__init__(spec)
        numbers = list(groups) if isinstance(groups, Iterable) else []
        if len(numbers) != 2 or not all(map(is_integer, numbers)) or not 1 <= numbers[0] <= numbers[1]:
            raise ValueError(
                f"groups={groups!r}: expected the smallest and the largest number, at least 1, such as (1, 3)"
            )
        check_nonnegative(power=power)
        check_unit_interval(floor=floor)
        check_positive_number(memory=memory)
        self.groups, self.power = (int(numbers[0]), int(numbers[1])), float(power)
        self.floor, self.memory = float(floor), float(memory)
        self.names = tuple(dict.fromkeys(parameter.group for parameter in spec))
        count = len(self.names)
        member = [[float(parameter.group == name) for name in self.names] for parameter in spec]
        membership = torch.tensor(member, dtype=torch.float32, device="cpu")
        self.register_buffer("membership", membership, persistent=False)
        self.register_buffer("reach", membership.new_ones(self.size, 2))
        self.register_buffer("weights", membership.new_full((count,), 1 / count))
        # Sums over the images of past updates: of the products of the groups in use, and of them with the scores.
        self.register_buffer("moments", membership.new_zeros(count, count))
        self.register_buffer("targets", membership.new_zeros(count))

    def set_reach(self, reach: Tensor) -> None:
        """See `Policy.set_reach`."""
        self.reach.copy_(self.checked_reach(reach))

    def sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Policy.sample`."""
        count, groups = len(images), len(self.names)
        fewest, most = (min(number, groups) for number in self.groups)
        # All from one draw, of uniform numbers on (-1, 1).
        drawn = unit_interval(randn((count, self.size + groups + 1), generator))
        fraction, race, number = torch.split(drawn, [self.size, groups, 1], dim=1)
        # The first of independent exponential times, with these rates, is each group's with probability `weights`.
        times = -torch.log((1 + race) / 2) / self.weights.clamp(min=1e-12)
        order = times.argsort(1).argsort(1)
        used = order < fewest + ((1 + number) / 2 * (most - fewest + 1)).floor().clamp(max=most - fewest)
        fraction = scale_sides(fraction, self.reach)
        return at_fraction(fraction * (used.to(fraction.dtype) @ self.membership.T))

    def used_groups(self, u: Tensor) -> Tensor:
        """Return `(B, G)` bool, the groups that are not at the identity in `u`, `(B, P)`."""
        return (u != 0).to(self.membership.dtype) @ self.membership > 0

    def statistics(self, u: Tensor, scores: Tensor) -> list[Tensor]:
        """See `Policy.statistics`."""
        used = self.used_groups(u).to(scores.dtype)
        return [used.T @ used, used.T @ scores]

    def learn(self, statistics: list[Tensor]) -> None:
        """See `Policy.learn`."""
        moments, targets = statistics
        decay = 1 - 1 / (1 + self.memory)
        self.moments.mul_(decay).add_(moments)
        self.targets.mul_(decay).add_(targets)
        self.weights.copy_(self._weights())

    def disagreement(self) -> Tensor:
        """Return `(G,)`, the disagreement that each group adds, in units of the objective, at least 0."""
        # The prior pulls toward what all groups would add if they added the same.
        common = self.targets.sum() / self.moments.sum().clamp(min=1e-9)
        prior = PRIOR * torch.eye(len(self.names), dtype=self.moments.dtype, device=self.moments.device)
        found, _ = torch.linalg.solve_ex(self.moments + prior, self.targets + PRIOR * common)
        return found.clamp(min=0)  # type: ignore[no-any-return]  # untyped in torch

    def _weights(self) -> Tensor:
        groups = len(self.names)
        powers = self.disagreement() ** self.power
        total = powers.sum()
        learned = torch.where(total > 0, powers / total.clamp(min=1e-30), 1 / groups)
        return (1 - self.floor) * learned + self.floor / groups

    def relative_entropy(self, images: Tensor | None = None) -> Tensor:
        """See `Policy.relative_entropy`: 0, since the ranges are not learned and no group is ever dropped."""
        return self.reach.new_zeros(())

    def relative_variance(self, images: Tensor | None = None) -> Tensor:
        """See `Policy.relative_variance`: 1, for the same reason, so that no uniform draws are mixed in."""
        return self.reach.new_ones(self.size)
