"""What a policy is: where the parameters `u` of a transform come from, and what of it is learned.

The spread of a policy is measured after decoding. With the squash of `transforms.base`, `u ~ N(0, I)` decodes to
the uniform distribution, so the entropy of the decoded parameters relative to that uniform is exactly
`-KL(q(u) || N(0, I))`: zero for random augmentation, minus infinity for a policy that has collapsed to a point. (For
folded parameters, the one-sided ones, it is a lower bound, exact where `q` is the same for `u` and `-u`.)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from hard_aug.ops.compose.reference import unit_interval
from hard_aug.transforms.base import Parameter

#: Beyond so many parameters their correlations are left out.
LARGEST_FULL_BLOCK = 64


class Policy(nn.Module, ABC):
    """A distribution of `u`, `(B, P)`, for a transform's parameters `spec`."""

    #: Of Adam, where the caller names none.
    learning_rate: float = 0.02
    #: Whether `propose` and the spread depend on the images.
    looks_at_images: bool = False
    one_sided: Tensor

    def __init__(self, spec: tuple[Parameter, ...]) -> None:
        super().__init__()
        if not spec:
            raise ValueError("a policy wants at least one parameter; pass transform.spec")
        self.spec = spec
        self.size = len(spec)
        self.register_buffer("one_sided", torch.tensor([p.one_sided for p in spec]), persistent=False)

    @abstractmethod
    def propose(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw `u`, `(B, P)`, float32, for `images`, `(B, C, H, W)`, with a graph to what is learned.

        Noise comes from `hard_aug.draws`, which shares the generator's numbers out among several processes.
        """

    @abstractmethod
    def relative_entropy(self, images: Tensor | None = None) -> Tensor:
        """`-KL(q(u) || N(0, I))` in nats, as a differentiable scalar; 0 for random augmentation, else less.

        Args:
            images: `(B, C, H, W)`, for a policy that looks at them: then it is the mean over these.
        """

    @abstractmethod
    def variance_share(self, images: Tensor | None = None) -> Tensor:
        """`(P,)`, the variance of each decoded parameter in units of its uniform distribution's, without a graph.

        1 for random augmentation, 0 for a point; up to 3 for one that jumps between its ends.
        """

    def variance_share_of(self, u: Tensor) -> Tensor:
        """`variance_share()` as it is in a sample of `u`, `(N, P)`."""
        fraction = unit_interval(u)
        fraction = torch.where(self.one_sided, 2 * fraction.abs() - 1, fraction)
        return 3 * fraction.var(0, correction=0)  # one that is uniform in (-1, 1) has the variance 1 / 3

    def variables(self, u: Tensor) -> list[Tensor]:
        """What the augmenter ascends, given its draw `u`: here the policy's own parameters."""
        return list(self.parameters())


def log_std_at_start(spec: tuple[Parameter, ...], std: float | None) -> Tensor:
    """`(P,)`, the logarithm of `std`, or of each parameter's own.

    Raises:
        ValueError: a policy that would start at a point.
    """
    if std is not None and not (std > 0 and math.isfinite(std)):
        raise ValueError(f"std={std}: wanted a positive number (a policy that starts at a point has collapsed)")
    return torch.tensor([parameter.start if std is None else std for parameter in spec]).log()


def gaussian_relative_entropy(mean: Tensor, covariance: Tensor) -> Tensor:
    """`-KL(N(mean, covariance) || N(0, I))` for `(P,)` and `(P, P)`."""
    size = mean.shape[0]
    _, log_determinant = torch.linalg.slogdet(covariance)
    entropy: Tensor = 0.5 * (size + log_determinant - covariance.diagonal().sum() - mean.square().sum())
    return entropy
