"""Generator: a small network from noise to `u`, for shapes that a normal distribution can't take (modes, edges)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hard_aug.draws import normal
from hard_aug.policies.base import LARGEST_FULL_BLOCK, Policy, gaussian_relative_entropy, log_std_at_start
from hard_aug.transforms.base import Parameter

PROBES = 512
SMALLEST_VARIANCE = 1e-8


class Generator(Policy):
    """`u = std * e + network(e)`, `e ~ N(0, I)`; the network's last layer starts at zero.

    Args:
        spec: the transform's parameters, `transform.spec`.
        std: standard deviation of each `u` at the start, above 0, learned from there on; None: what the transform
            suggests, mostly 0.3.
        width: units of the two hidden layers.
        seed: of the initial weights and of the fixed noise at which the spread is measured.

    Its relative entropy is that of the normal distribution with its own mean and covariance (with more than 64
    parameters: its variances alone), taken over 512 fixed draws of noise.
    """

    learning_rate = 0.003
    probes: Tensor

    def __init__(
        self, spec: tuple[Parameter, ...], *, std: float | None = None, width: int = 32, seed: int = 0
    ) -> None:
        super().__init__(spec)
        log_std = log_std_at_start(spec, std)
        if width < 1:
            raise ValueError(f"width={width}: wanted a positive number of units")
        generator = torch.Generator().manual_seed(seed)
        self.log_std = nn.Parameter(log_std)
        with torch.random.fork_rng(devices=[]):  # building a policy leaves the global generator as it was
            self.network = nn.Sequential(
                nn.Linear(self.size, width),
                nn.SiLU(),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Linear(width, self.size),
            )
        for module in self.network:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.network[-1].weight)  # type: ignore[arg-type]
        self.register_buffer("probes", torch.randn(PROBES, self.size, generator=generator), persistent=False)

    def transport(self, noise: Tensor) -> Tensor:
        """`u`, `(N, P)`, for noise `(N, P)`."""
        return noise * self.log_std.exp() + self.network(noise)  # type: ignore[no-any-return]

    def propose(self, images: Tensor, generator: torch.Generator) -> Tensor:
        noise = normal((len(images), self.size), generator)
        return self.transport(noise)

    def relative_entropy(self, images: Tensor | None = None) -> Tensor:
        u = self.transport(self.probes)
        mean = u.mean(0)
        centred = u - mean
        if self.size > LARGEST_FULL_BLOCK:  # a determinant of so many directions wants more draws
            variance = centred.square().mean(0) + SMALLEST_VARIANCE
            return 0.5 * (1 + variance.log() - variance - mean.square()).sum()
        covariance = centred.T @ centred / PROBES + SMALLEST_VARIANCE * torch.eye(self.size, device=u.device)
        return gaussian_relative_entropy(mean, covariance)

    @torch.no_grad()
    def variance_share(self, images: Tensor | None = None) -> Tensor:
        return self.variance_share_of(self.transport(self.probes))
