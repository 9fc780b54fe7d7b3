"""Uniform: random augmentation, the control that every learned policy is compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hard_aug.policies.base import Policy
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.checks import check_fraction
from hard_aug.utils.rng import randn


class Uniform(Policy):
    """Draws uniformly from the middle `scale` of each parameter's range and learns nothing.

    Args:
        spec: the transform's parameters, `transform.spec`.
        scale: fraction of the ranges, in (0, 1]. One-sided parameters are drawn from the identity up to it.

    Raises:
        ValueError: a scale outside (0, 1].

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Affine
        >>> affine = Affine(translation=0.25, rotation=None, scale=None, shear=None)
        >>> policy = Uniform(affine.spec, scale=0.5)
        >>> u = policy.sample(torch.rand(1000, 1, 8, 8), torch.Generator().manual_seed(0))
        >>> float(affine.decode(u)["translation_x"].abs().max()) <= 0.125
        True
    """

    def __init__(self, spec: tuple[Parameter, ...], *, scale: float = 1.0) -> None:
        super().__init__(spec)
        check_fraction(scale=scale)
        self.scale = float(scale)

    def sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Policy.sample`."""
        u = randn((len(images), self.size), generator)
        if self.scale < 1:
            u = math.sqrt(2) * torch.erfinv(self.scale * torch.erf(u / math.sqrt(2)))
        return u

    def relative_entropy(self, images: Tensor | None = None) -> Tensor:
        """See `Policy.relative_entropy`."""
        return self.one_sided.new_full((), self.size * math.log(self.scale), dtype=torch.float32)

    def relative_variance(self, images: Tensor | None = None) -> Tensor:
        """See `Policy.relative_variance`."""
        return self.one_sided.new_full((self.size,), self.scale**2, dtype=torch.float32)
