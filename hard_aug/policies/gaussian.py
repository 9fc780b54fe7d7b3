"""Gaussian: one learned normal distribution of `u` for the whole data set (after HARD, arXiv:2305.14890)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hard_aug.policies.base import LARGEST_FULL_BLOCK, Policy, log_std_at_start, normal_quantiles, std_of_reach
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.rng import randn

QUANTILES = 64


class Gaussian(Policy):
    """`u = mean + L e`, `e ~ N(0, I)`, with `L` lower triangular inside each block of the transform's parameters.

    Blocks of more than 64 parameters get a diagonal `L`. The diagonal is learned as its logarithm.

    Args:
        spec: the transform's parameters, `transform.spec`.
        std: standard deviation of each `u` at the start, above 0 (1 would be random augmentation); None: each
            parameter's `start`, mostly 0.3.

    Raises:
        ValueError: a standard deviation that is not positive.

    Example:
        >>> from hard_aug.transforms import Affine
        >>> policy = Gaussian(Affine().spec, std=0.3)
        >>> policy.scale().shape
        torch.Size([6, 6])
    """

    starts_from_reach = True
    mask: Tensor
    quantiles: Tensor

    def __init__(self, spec: tuple[Parameter, ...], *, std: float | None = None) -> None:
        super().__init__(spec)
        self.std = None if std is None else float(std)
        self.mean = nn.Parameter(torch.zeros(self.size, dtype=torch.float32, device="cpu"))
        self.log_std = nn.Parameter(log_std_at_start(spec, std))
        self.lower = nn.Parameter(torch.zeros(self.size, self.size, dtype=torch.float32, device="cpu"))
        self.register_buffer("mask", _same_block(spec).tril(-1), persistent=False)
        self.register_buffer("quantiles", normal_quantiles(QUANTILES), persistent=False)

    @torch.no_grad()
    def set_reach(self, reach: Tensor) -> None:
        """See `Policy.set_reach`."""
        self.log_std.copy_(std_of_reach(self.checked_reach(reach)).log())

    def scale(self) -> Tensor:
        """Return `L`, `(P, P)`. Rows are learned in units of their own standard deviation, for one learning rate."""
        std = self.log_std.exp()
        return torch.diag(std) + std[:, None] * self.lower * self.mask

    def sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Policy.sample`."""
        return self.mean + randn((len(images), self.size), generator) @ self.scale().T

    def relative_entropy(self, images: Tensor | None = None) -> Tensor:
        """See `Policy.relative_entropy`."""
        scale = self.scale()
        return 0.5 * (self.size + 2 * self.log_std.sum() - scale.square().sum() - self.mean.square().sum())

    @torch.no_grad()
    def relative_variance(self, images: Tensor | None = None) -> Tensor:
        """See `Policy.relative_variance`."""
        return self.relative_variance_of(self.mean + self.scale().norm(dim=1) * self.quantiles[:, None])


def _same_block(spec: tuple[Parameter, ...]) -> Tensor:
    blocks = [p.block for p in spec]
    small = {block for block in blocks if blocks.count(block) <= LARGEST_FULL_BLOCK}
    rows = [[float(a == b and a in small) for b in blocks] for a in blocks]
    return torch.tensor(rows, dtype=torch.float32, device="cpu")
