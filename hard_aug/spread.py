"""Spread: the defence against collapse, the known failure of an adversary that must keep the teacher's answer.

Where a teacher is sensitive to everything, the policy that disagrees most *and* keeps its answer is a point near the
identity, which shows the student nothing. Two things stand against that.

1. The policy ascends `weight` times its relative entropy `-KL(q(u) || N(0, I))`, the entropy of the decoded parameters
   relative to the uniform distribution. Its gradient grows without bound as a policy narrows.
2. Where the room that the policy uses is below `floor`, a share of the draws is uniform instead of the policy's:

       share = min(1 - (room / floor)^4, 0.95).

   Room is the mean variance share, `Policy.variance_share()`, of the six widest parameters: the variance of a decoded
   one in units of its uniform distribution's. To drop what the teacher can't bear is what a policy is for, and no
   collapse while others stay wide.

`least_share` of the draws is uniform in any case: where there is no single invariance to find, a policy leaves parts of
the range out that the student should still see.

So where a teacher leaves no room, the augmenter falls back to random augmentation instead of to nothing, and a policy
with enough room never feels it. The gradient of the policy's own draws is divided by their share, so what it learns
does not depend on how many they are: a share that fed back into the room would swing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hard_aug import draws

#: How many of the parameters count as room, the widest: as many as an affine map has.
COUNTED = 6
STEEPNESS = 4
#: A policy that is never drawn from would never learn its way out.
LARGEST_SHARE = 0.95


class Spread:
    """How strongly a policy is kept from collapsing.

    Args:
        weight: of the relative entropy, in units of the objective per nat, at least 0.
        floor: of the room in use, between 0 and 1; None: no uniform draws. 1 is random augmentation, and 0.15 what a
            normal distribution of each `u` with standard deviation 0.29 uses, or one of six parameters with 0.9.
        least_share: of uniform draws, in [0, 0.95].
        device: of the share.

    Attributes:
        uniform_share: of the draws, a scalar tensor.
    """

    def __init__(
        self,
        *,
        weight: float,
        floor: float | None,
        least_share: float = 0.0,
        device: torch.device | None = None,
    ) -> None:
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"spread_weight={weight}: wanted a number of at least 0")
        if floor is not None and not 0 < floor < 1:
            raise ValueError(
                f"spread_floor={floor}: wanted a number between 0 (a point) and 1 (random augmentation), or None"
            )
        if not 0 <= least_share <= LARGEST_SHARE:
            raise ValueError(
                f"uniform_floor={least_share}: wanted a share of draws in [0, {LARGEST_SHARE}] (a policy that is never "
                "drawn from would never learn)"
            )
        self.weight, self.floor, self.least_share = weight, floor, least_share
        self.uniform_share = torch.full((), least_share, device=device)

    def mixed(self, u: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """`u`, `(B, P)`, with the share of uniform draws in it, and which rows are the policy's own, `(B,)` bool.

        None instead of the latter: all are. Gradients: those of the own rows, over their share.
        """
        share = self.uniform_share
        never = self.floor is None and not self.least_share
        if never or (not share.is_cuda and not share):  # on a GPU, to ask would be to wait
            return u, None
        uniform = draws.normal(tuple(u.shape), generator)
        own = draws.uniform(len(u), generator) >= share
        weighted = u.detach() + (u - u.detach()) / (1 - share)
        return torch.where(own[:, None], weighted, uniform), own

    @torch.no_grad()
    def update(self, variance_share: Tensor) -> None:
        """Take note of a policy's `variance_share()`, `(P,)`, on its device."""
        if self.floor is not None:
            room = variance_share.sort(descending=True).values[:COUNTED].mean()
            share = (1 - (room / self.floor) ** STEEPNESS).nan_to_num(0.0)
            self.uniform_share.copy_(share.clamp(self.least_share, LARGEST_SHARE))


def own_sum(values: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum of `values`, `(B,)`, over the policy's own rows, and how many these are."""
    if own is None:
        return values.sum(), values.new_full((), len(values))
    return (values * own).sum(), own.sum().to(values.dtype)
