"""Generator: a small network from noise to `u`, for distributions that are not normal (several modes, hard edges)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hard_aug.policies.base import (
    LARGEST_FULL_BLOCK,
    Policy,
    building,
    gaussian_relative_entropy,
    initialise_network,
    log_std_at_start,
    std_of_reach,
)
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.checks import as_seed, check_integer
from hard_aug.utils.rng import randn

PROBES = 512
SMALLEST_VARIANCE = 1e-8


class Generator(Policy):
    """`u = std * e + network(e)`, `e ~ N(0, I)`; the network's last layer starts at zero.

    Its relative entropy is that of the normal distribution with its own mean and covariance (with more than 64
    parameters: its variances alone), estimated from 512 fixed draws of noise.

    Args:
        spec: the transform's parameters, `transform.spec`.
        std: standard deviation of each `u` at the start, above 0, learned from there on; None: each
            parameter's `start`, mostly 0.3.
        width: units of the two hidden layers.
        seed: of the initial weights and of the fixed noise at which the spread is measured.

    Raises:
        ValueError: settings that are not positive.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Affine
        >>> policy = Generator(Affine().spec, width=16)
        >>> policy.sample(torch.rand(4, 1, 28, 28), torch.Generator()).shape
        torch.Size([4, 6])
    """

    learning_rate = 0.003
    starts_from_reach = True
    probes: Tensor

    def __init__(
        self, spec: tuple[Parameter, ...], *, std: float | None = None, width: int = 32, seed: int = 0
    ) -> None:
        super().__init__(spec)
        check_integer(width=width)
        self.width = width = int(width)
        self.std, self.seed = None if std is None else float(std), as_seed(seed)
        generator = torch.Generator().manual_seed(self.seed)
        self.log_std = nn.Parameter(log_std_at_start(spec, std))
        with building() as place:
            self.network = nn.Sequential(
                nn.Linear(self.size, width, **place),
                nn.SiLU(),
                nn.Linear(width, width, **place),
                nn.SiLU(),
                nn.Linear(width, self.size, **place),
            )
        initialise_network(self.network, generator)
        self.register_buffer("probes", randn((PROBES, self.size), generator), persistent=False)

    @torch.no_grad()
    def set_reach(self, reach: Tensor) -> None:
        """See `Policy.set_reach`."""
        self.log_std.copy_(std_of_reach(self.checked_reach(reach)).log())

    def transport(self, noise: Tensor) -> Tensor:
        """Return `u`, `(N, P)`, for noise `(N, P)`."""
        return noise * self.log_std.exp() + self.network(noise)  # type: ignore[no-any-return]

    def sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Policy.sample`."""
        return self.transport(randn((len(images), self.size), generator))

    def relative_entropy(self, images: Tensor | None = None) -> Tensor:
        """See `Policy.relative_entropy`."""
        u = self.transport(self.probes)
        mean = u.mean(0)
        centred = u - mean
        if self.size > LARGEST_FULL_BLOCK:  # the determinant of a large covariance requires more draws
            variance = centred.square().mean(0) + SMALLEST_VARIANCE
            return 0.5 * (1 + variance.log() - variance - mean.square()).sum()
        smallest = SMALLEST_VARIANCE * torch.eye(self.size, dtype=u.dtype, device=u.device)
        return gaussian_relative_entropy(mean, centred.T @ centred / PROBES + smallest)

    @torch.no_grad()
    def relative_variance(self, images: Tensor | None = None) -> Tensor:
        """See `Policy.relative_variance`."""
        return self.relative_variance_of(self.transport(self.probes))
