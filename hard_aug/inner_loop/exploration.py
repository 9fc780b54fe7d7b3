"""Exploration: the defence against collapse, the known failure of an adversary that must keep the teacher's prediction.

If the teacher tolerates almost no augmentation, the policy that disagrees most *and* keeps its prediction is a point
near the identity, which shows the student nothing. Two mechanisms prevent that.

1. The policy maximises `entropy_weight` times its relative entropy `-KL(q(u) || N(0, I))`, the entropy of the decoded
   parameters relative to the uniform distribution. Its gradient grows without bound as a policy narrows.
2. While the policy's variance is below `min_variance`, a fraction of the draws is uniform instead of the policy's:

       fraction = min(1 - (variance / min_variance)^4, 0.95).

   The variance is the mean of `Policy.relative_variance()` over its six widest parameters. Dropping the parameters that
   the teacher does not tolerate is what a policy is for, and no collapse while others stay wide.

`min_uniform_fraction` of the draws is uniform in any case, for problems without a single invariance, where a policy
leaves out parts of the range that the student should still see.

So if the teacher tolerates nothing, the augmenter falls back to random augmentation, and a policy that is wide enough
is not affected. The gradient of the policy's own draws is divided by their fraction, so what it learns does not depend
on how many they are: a fraction that fed back into the variance would oscillate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hard_aug.utils import rng
from hard_aug.utils.checks import check_nonnegative, store_as_python

#: The widest parameters that count for a policy's variance: as many as an affine map has.
TOP_K = 6
EXPONENT = 4
#: A policy that is never drawn from would never learn its way out.
MAX_UNIFORM_FRACTION = 0.95


class MaskedSum(NamedTuple):
    """A sum over some rows, and how many they are; scalars."""

    total: Tensor
    rows: Tensor


@dataclass(frozen=True, slots=True)
class Sample:
    """Parameters drawn for a batch.

    Attributes:
        u: `(B, P)`.
        on_policy: `(B,)` bool, the rows that the policy itself drew; None: all.
    """

    u: Tensor
    on_policy: Tensor | None = None

    def masked_sum(self, values: Tensor) -> MaskedSum:
        """Sum `values`, `(B,)`, over the rows that the policy drew."""
        if self.on_policy is None:
            return MaskedSum(values.sum(), values.new_full((), len(values)))
        return MaskedSum((values * self.on_policy).sum(), self.on_policy.sum().to(values.dtype))


@dataclass(frozen=True, slots=True)
class Exploration:
    """Settings that keep a policy from collapsing; see the head of this module.

    Attributes:
        entropy_weight: weight of the relative entropy, in units of the objective per nat, at least 0.
        min_variance: relative variance below which uniform draws are mixed in, between 0 (a point) and 1 (random
            augmentation); None: never. 0.15 is the variance of a normal distribution of each `u` with standard
            deviation 0.29, or of one parameter in six with 0.9.
        min_uniform_fraction: fraction of the draws that is uniform in any case, in [0, 0.95].

    Raises:
        ValueError: a setting out of its range.

    Example:
        >>> Exploration(min_variance=0.2)
        Exploration(entropy_weight=0.08, min_variance=0.2, min_uniform_fraction=0.0)
    """

    entropy_weight: float = 0.08
    min_variance: float | None = 0.15
    min_uniform_fraction: float = 0.0

    def __post_init__(self) -> None:
        store_as_python(self)
        check_nonnegative(entropy_weight=self.entropy_weight)
        if self.min_variance is not None and not 0 < self.min_variance < 1:
            raise ValueError(
                f"min_variance={self.min_variance}: expected a number between 0 (a point) and 1 (random augmentation), "
                "or None"
            )
        if not 0 <= self.min_uniform_fraction <= MAX_UNIFORM_FRACTION:
            raise ValueError(
                f"min_uniform_fraction={self.min_uniform_fraction}: expected a fraction in "
                f"[0, {MAX_UNIFORM_FRACTION}] (a policy that is never drawn from would never learn)"
            )

    @property
    def is_active(self) -> bool:
        """Whether uniform draws are ever mixed in."""
        return self.min_variance is not None or self.min_uniform_fraction > 0

    @torch.no_grad()
    def uniform_fraction(self, relative_variance: Tensor) -> Tensor:
        """Return the fraction of uniform draws, a scalar, for a policy's `relative_variance()`, `(P,)`.

        Without a `min_variance` it is `min_uniform_fraction`.
        """
        if self.min_variance is None:
            return relative_variance.new_tensor(self.min_uniform_fraction)
        variance = relative_variance.sort(descending=True).values[:TOP_K].mean()
        fraction = (1 - (variance / self.min_variance) ** EXPONENT).nan_to_num(0.0)
        return fraction.clamp(self.min_uniform_fraction, MAX_UNIFORM_FRACTION)


def mix_uniform(u: Tensor, uniform_fraction: Tensor, generator: torch.Generator) -> Sample:
    """Replace a random fraction of the rows of `u`, `(B, P)`, by uniform draws.

    Args:
        u: drawn by a policy.
        uniform_fraction: scalar in [0, 0.95].
        generator: source of the draws.

    Returns:
        The sample. Gradients flow through the policy's own rows, divided by their fraction.
    """
    # On a GPU, reading the fraction would synchronise with the device.
    if not uniform_fraction.is_cuda and not uniform_fraction:
        return Sample(u)
    uniform = rng.randn(tuple(u.shape), generator)
    on_policy = rng.rand(len(u), generator) >= uniform_fraction
    weighted = u.detach() + (u - u.detach()) / (1 - uniform_fraction)
    return Sample(torch.where(on_policy[:, None], weighted, uniform), on_policy)
