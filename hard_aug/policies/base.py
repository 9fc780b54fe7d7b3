"""Base of the policies: where the parameters `u` of a transform come from, and what of that is learned.

The spread of a policy is measured after decoding. With the squash of `transforms.spec`, `u ~ N(0, I)` decodes to the
uniform distribution, so the entropy of the decoded parameters relative to that uniform is exactly
`-KL(q(u) || N(0, I))`: zero for random augmentation, minus infinity for a policy that has collapsed to a point. (For
one-sided parameters, which are folded, it is a lower bound, exact where `q` is the same for `u` and `-u`.)
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hard_aug.ops.elementwise import unit_interval
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.float32 import Float32Module
from hard_aug.utils.settings_repr import describe_settings

#: Beyond this many parameters in a block, their correlations are left out.
LARGEST_FULL_BLOCK = 64
#: Standard deviation of `u` at which eight draws in ten lie in the outermost tenths of a range.
LARGEST_STD = 5.0
#: Names of parameters that a `repr` lists: a transform of noise has thousands.
NAMES_SHOWN = 8


class Policy(Float32Module, ABC):
    """A distribution of `u`, `(B, P)`. It is float32, whatever the default dtype or a cast of a module that holds it.

    Args:
        spec: the transform's parameters, `transform.spec`.

    Attributes:
        spec: the same.
        size: P, the number of parameters.
        one_sided: `(P,)` bool, which of them are folded.

    Raises:
        TypeError: `spec` is not that of a transform.
        ValueError: an empty `spec`.

    Example:
        >>> from hard_aug.policies import Policy
        >>> from hard_aug.transforms import Affine
        >>> from hard_aug.utils.rng import randn
        >>> class Diagonal(Policy):
        ...     def __init__(self, spec):
        ...         super().__init__(spec)
        ...         self.log_std = nn.Parameter(log_std_at_start(spec, None))
        ...         noise = torch.randn(512, self.size, generator=torch.Generator().manual_seed(0))
        ...         self.register_buffer("noise", noise, persistent=False)
        ...
        ...     def sample(self, images, generator):
        ...         return self.log_std.exp() * randn((len(images), self.size), generator)
        ...
        ...     def relative_entropy(self, images=None):
        ...         return (0.5 + self.log_std - (2 * self.log_std).exp() / 2).sum()
        ...
        ...     def relative_variance(self, images=None):
        ...         return self.relative_variance_of(self.log_std.exp() * self.noise).detach()
        >>> Diagonal(Affine().spec).sample(torch.rand(4, 3, 8, 8), torch.Generator()).shape
        torch.Size([4, 6])
    """

    #: Of Adam, if the caller gives none.
    learning_rate: float = 0.02
    #: Whether `sample` and the spread depend on the images.
    is_conditional: bool = False
    #: Forwards and backwards of the two networks for each image that `refine` is called for.
    refine_evaluations: int = 0
    #: Whether `set_reach` is defined.
    starts_from_reach: bool = False
    #: Whether `learn` updates the policy from scores of draws.
    learns_from_scores: bool = False
    #: Whether `refine` optimises the parameters of each image by itself.
    is_per_sample: bool = False
    one_sided: Tensor

    def __init__(self, spec: tuple[Parameter, ...]) -> None:
        super().__init__()
        if not (isinstance(spec, tuple) and all(isinstance(one, Parameter) for one in spec)):
            name = type(self).__name__
            raise TypeError(f"spec: expected transform.spec, got {type(spec).__name__}; use {name}(transform.spec)")
        if not spec:
            raise ValueError("a policy requires at least one parameter; pass transform.spec")
        self.spec = spec
        self.size = len(spec)
        self.register_buffer(
            "one_sided", torch.tensor([p.one_sided for p in spec], dtype=torch.bool, device="cpu"), persistent=False
        )

    def check_spec(self, spec: tuple[Parameter, ...]) -> None:
        """Raise `ValueError` unless the policy was created for this `spec`."""
        if self.spec == spec:
            return
        fix = f"use {type(self).__name__}(transform.spec)"
        if self.size != len(spec):
            raise ValueError(f"the policy has {self.size} parameters and the transform {len(spec)}; {fix}")
        own, other = (", ".join(one.name for one in part[:NAMES_SHOWN]) for part in (self.spec, spec))
        raise ValueError(f"the policy is for other parameters or ranges ({own}) than the transform ({other}); {fix}")

    @abstractmethod
    def sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw `u`, `(B, P)`, float32, for `images`, `(B, C, H, W)`, with a graph to what is learned.

        Noise comes from `hard_aug.utils.rng`, which splits the generator's numbers among several processes.

        Args:
            images: only their number counts, unless the policy is conditional.
            generator: source of the noise.
        """

    @abstractmethod
    def relative_entropy(self, images: Tensor | None = None) -> Tensor:
        """Return `-KL(q(u) || N(0, I))` in nats, a differentiable scalar; 0 for random augmentation, else less.

        Args:
            images: `(B, C, H, W)`, for a conditional policy: then it is the mean over these.
        """

    @abstractmethod
    def relative_variance(self, images: Tensor | None = None) -> Tensor:
        """Return `(P,)`, the variance of each decoded parameter relative to its uniform distribution's, detached.

        Unless the policy is conditional, it must be equal in all processes. It is 1 for random augmentation,
        0 for a point, and up to 3 for a policy that jumps between the range's ends.

        Args:
            images: `(B, C, H, W)`, for a conditional policy.
        """

    def set_reach(self, reach: Tensor) -> None:
        """Start with draws that spread over a part of each range, as wide as uniform draws from it.

        Args:
            reach: `(P, 2)`, the part of each range below and above the identity, in (0, 1]; see `calibrate`.

        Raises:
            ValueError: another shape, values out of range, or a policy that has no such start.
        """
        raise ValueError(
            f"{type(self).__name__} has no start that calibrated ranges could set; use calibration=False, and the "
            "transform of calibrate(...).narrowed() if the ranges are wanted"
        )

    def checked_reach(self, reach: Tensor) -> Tensor:
        """Return `reach`, `(P, 2)`, or raise `ValueError`; see `set_reach`."""
        if tuple(reach.shape) != (self.size, 2) or not bool(((reach > 0) & (reach <= 1)).all()):
            found = f"{float(reach.min()):g} to {float(reach.max()):g}" if reach.numel() else "none"
            raise ValueError(
                f"reach: expected ({self.size}, 2) numbers in (0, 1], got {tuple(reach.shape)} with values {found}"
            )
        return reach

    def statistics(self, u: Tensor, scores: Tensor) -> list[Tensor]:
        """Return sums over images that `learn` needs, if the policy `learns_from_scores`.

        Args:
            u: drawn parameters, `(n, P)`.
            scores: `(n,)`, by how much the disagreement is above that on the clean image; 0 where the teacher's
                prediction has changed.
        """
        return []

    def learn(self, statistics: list[Tensor]) -> None:
        """Update the policy from `statistics`, which are means over several processes if there are any."""

    def relative_variance_of(self, u: Tensor) -> Tensor:
        """Estimate `relative_variance()` from a sample of `u`, `(N, P)`."""
        fraction = unit_interval(u)
        fraction = torch.where(self.one_sided, 2 * fraction.abs() - 1, fraction)
        return 3 * fraction.var(0, correction=0)  # the uniform distribution on (-1, 1) has variance 1 / 3

    def refine(
        self,
        u: Tensor,
        *,
        sample: Callable[[], Tensor],
        score: Callable[[Tensor], Tensor],
        score_with_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Improve the draw `u`, `(B, P)`, for each image by itself; only called if `is_per_sample`.

        Args:
            u: a draw.
            sample: draws another one.
            score: returns `(B,)`, the score of each image, higher is harder.
            score_with_gradient: returns that and its gradient `(B, P)`.

        Returns:
            `(B, P)`, detached.
        """
        return u

    def extra_repr(self) -> str:
        """Show the parameters' names and the settings."""
        names = ", ".join(parameter.name for parameter in self.spec[:NAMES_SHOWN])
        more = f", ... ({self.size} in total)" if self.size > NAMES_SHOWN else ""
        settings = describe_settings(self, skip=("spec",))
        return f"{names}{more}" + (f"; {settings}" if settings else "")


def log_std_at_start(spec: tuple[Parameter, ...], std: float | None) -> Tensor:
    """Return `(P,)`, float32 on the CPU, the logarithm of `std`, or of each parameter's own starting value.

    Raises:
        ValueError: `std` is not positive, so the policy would start at a point.
    """
    if std is not None and not (std > 0 and math.isfinite(std)):
        raise ValueError(f"std={std}: expected a positive number (a policy that starts at a point has collapsed)")
    if std is not None and std > LARGEST_STD:
        warnings.warn(
            f"std={std:g} is in units of u, where 1 is random augmentation: most draws lie at the ends of the "
            "ranges; leave it out, and give physical ranges to the transform",
            stacklevel=3,
        )
    values = [parameter.start if std is None else float(std) for parameter in spec]
    return torch.tensor(values, dtype=torch.float32, device="cpu").log()


@contextmanager
def building() -> Iterator[dict[str, Any]]:
    """Yield the arguments that put layers on the CPU, in float32, whatever the defaults; keep the global generator."""
    with torch.random.fork_rng(devices=[]):
        yield {"device": "cpu", "dtype": torch.float32}


def std_of_reach(reach: Tensor) -> Tensor:
    """Return `(P,)`, the standard deviation of `u ~ N(0, std^2)` whose decoded values vary as uniform ones in a reach.

    The variance of `2 Phi(u) - 1` is `(2 / pi) asin(s^2 / (1 + s^2))`, that of a uniform fraction in `(-r, r)`
    `r^2 / 3`. For a reach `(P, 2)` the mean of both sides' squares counts.
    """
    part = torch.sin(torch.pi / 6 * reach.square().mean(1)).clamp(max=0.5)
    return (part / (1 - part)).sqrt()


def normal_quantiles(count: int) -> Tensor:
    """Return `(count,)` quantiles of the standard normal distribution, at equal steps of probability."""
    probabilities = (torch.arange(count, dtype=torch.float32, device="cpu") + 0.5) / count
    return torch.special.ndtri(probabilities)  # type: ignore[no-any-return]  # untyped in torch


def initialise_network(network: nn.Sequential, generator: torch.Generator) -> None:
    """Draw the weights of a policy's network from `generator`; biases and the last layer's weights start at zero."""
    for module in network:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5, generator=generator)
            nn.init.constant_(module.bias, 0.0)  # type: ignore[arg-type]  # these have one
    nn.init.zeros_(network[-1].weight)  # type: ignore[arg-type]  # the last layer is linear


def gaussian_relative_entropy(mean: Tensor, covariance: Tensor) -> Tensor:
    """Compute `-KL(N(mean, covariance) || N(0, I))` for `(P,)` and `(P, P)`."""
    size = mean.shape[0]
    _, log_determinant = torch.linalg.slogdet(covariance)
    return 0.5 * (size + log_determinant - covariance.diagonal().sum() - mean.square().sum())  # type: ignore[no-any-return]
