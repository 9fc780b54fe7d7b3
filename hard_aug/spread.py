"""Spread: the defence against collapse, the known failure of an adversary that must keep the teacher's answer.

Where a teacher is sensitive to everything, the policy that disagrees most *and* keeps its answer is a point near the
identity, which shows the student nothing. Two things stand against that. The policy ascends `weight` times its relative
entropy `H = -KL(q(u) || N(0, I))`, the entropy of the decoded parameters relative to the uniform distribution; its
gradient grows without bound as a policy narrows. And when the room that the policy uses falls below `floor`, a tension
`x` rises,

    x <- clamp(x + rate log(floor / room) / 2, 0, limit).

Room is the mean variance share, `Policy.variance_share()`, of the six widest parameters: the variance of a decoded one
in units of its uniform distribution's. To drop what the teacher can't bear is what a policy is for, and no collapse
while others stay wide; the mean of the entropies, tried first, took one for the other. The tension multiplies the
weight by `e^x` and the teacher's multiplier by `e^-x`, and replaces a share `1 - e^-12x` of the draws by uniform ones.
So where a teacher leaves no room, the augmenter falls back to random augmentation instead of to nothing. A policy with
enough room never feels it.

Adapting an entropy's weight to a target is done so in soft actor-critic (Haarnoja et al., arXiv:1812.05905); the rest
of what the tension does is ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: How fast the share of uniform draws rises with the tension.
UNIFORM_RATE = 12.0
#: How many of the parameters count as room, the widest: as many as an affine map has.
COUNTED = 6


class Spread:
    """How strongly a policy is kept from collapsing.

    Args:
        weight: of the relative entropy, in units of the objective per nat, at least 0.
        floor: of the room in use, between 0 and 1; None: no tension. 1 is random augmentation, and 0.13 what a normal
            distribution of each `u` with standard deviation 0.27 uses, or one of six parameters with 0.8.
        rate: of the tension, per ascent and nat of standard deviation.
        limit: of the tension.
        device: of the tension.
    """

    def __init__(
        self,
        *,
        weight: float,
        floor: float | None,
        rate: float = 0.05,
        limit: float = 5.0,
        device: torch.device | None = None,
    ) -> None:
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"spread_weight={weight}: wanted a number of at least 0")
        if floor is not None and not 0 < floor < 1:
            raise ValueError(
                f"spread_floor={floor}: wanted a number between 0 (a point) and 1 (random augmentation), or None"
            )
        self.weight, self.floor, self.rate, self.limit = weight, floor, rate, limit
        self.tension = torch.zeros((), device=device)

    @property
    def current_weight(self) -> Tensor:
        """Of the relative entropy, a scalar."""
        return self.weight * self.tension.exp()

    def relaxed(self, multiplier: Tensor) -> Tensor:
        """The teacher's multiplier under the tension."""
        return multiplier * self.tension.neg().exp()

    def mixed(self, u: Tensor, generator: torch.Generator) -> Tensor:
        """`u`, `(B, P)`, with the share of uniform draws in it. Gradients: those of the rows that stay."""
        if self.floor is None or (not self.tension.is_cuda and not self.tension):  # a GPU would be waited for
            return u
        uniform = torch.randn(u.shape, generator=generator, device=u.device, dtype=u.dtype)
        chance = torch.rand(len(u), 1, generator=generator, device=u.device)
        return torch.where(chance < 1 - (-UNIFORM_RATE * self.tension).exp(), uniform, u)

    @torch.no_grad()
    def update(self, variance_share: Tensor) -> None:
        """Take note of a policy's `variance_share()`, `(P,)`, on its device."""
        if self.floor is not None:
            room = variance_share.sort(descending=True).values[:COUNTED].mean()
            step = self.rate * 0.5 * (self.floor / room).log()
            self.tension.add_(step.nan_to_num(0.0, self.limit, -self.limit)).clamp_(0, self.limit)
