"""Parts of `HierarchicalVAE`: a latent level of its decoder, the parametrisation of scales, and checks of settings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from hard_aug.utils.checks import check_integer

#: Log-scales are clamped from below: exp of much less is 0 in float32, and a KL divergence infinite.
LOWEST_LOG_SCALE = -10.0


def scale_of(log_scale: Tensor) -> Tensor:
    """Return the standard deviation `elu(x) + 1`: `exp(x)` for `x <= 0` and `1 + x` above, which cannot overflow.

    `elu(x) + 1` in float32 is 0 below about -17; here the minimum is `exp(-10)`.
    """
    # Clamped at 1 and not at 0, where priors start: at the bound of a clamp there is no gradient.
    below = log_scale.clamp(LOWEST_LOG_SCALE, 1).exp()
    return torch.where(log_scale > 0, 1 + log_scale, below)


class LatentLevel(nn.Module):
    """One level of the decoder: prior, posterior, and the layers that add the latent to the state.

    Args:
        width: channels of the state.
        latent_channels: channels of the latent map.
        resolution: height and width of the maps.
        depth: number of levels of the decoder.
    """

    def __init__(self, width: int, latent_channels: int, resolution: int, depth: int) -> None:
        super().__init__()
        self.sizes = (latent_channels, latent_channels)
        self.posterior = bottleneck(2 * width, 2 * latent_channels, resolution, hidden=width // 2)
        self.prior = bottleneck(width, 2 * latent_channels + width, resolution, output_scale=0.0)  # starts at N(0, 1)
        self.put_in = nn.Conv2d(latent_channels, width, 1)
        self.refine = bottleneck(width, width, resolution, output_scale=depth**-0.5)
        with torch.no_grad():  # otherwise the state's variance would grow with the depth
            self.put_in.weight.mul_(depth**-0.5)

    def posterior_of(self, state: Tensor, activations: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior's mean and log-scale maps.

        Args:
            state: `(B, width, r, r)`, state of the decoder.
            activations: `(B, width, r, r)`, activations of the encoder.
        """
        mean, log_scale = self.posterior(torch.cat((state, activations), dim=1)).split(self.sizes, dim=1)
        return mean, log_scale

    def prior_of(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the prior's mean and log-scale maps, and features that are added to the state `(B, width, r, r)`."""
        mean, log_scale, features = self.prior(state).split((*self.sizes, state.shape[1]), dim=1)
        return mean, log_scale, features


def bottleneck(
    inputs: int, outputs: int, resolution: int, *, hidden: int = 0, output_scale: float = 1.0
) -> nn.Sequential:
    """Build two convolutions between two 1 x 1 convolutions that change the number of channels.

    Args:
        inputs: input channels.
        outputs: output channels.
        resolution: height and width of the maps.
        hidden: channels in between; 0: half of the inputs.
        output_scale: factor of the last convolution's initial weights.
    """
    hidden = max(hidden or inputs // 2, 1)
    kernel = 3 if resolution > 2 else 1  # a 1 x 1 map has no neighbouring pixels
    layers: list[nn.Module] = []
    for before, after, k in ((inputs, hidden, 1), (hidden, hidden, kernel), (hidden, hidden, kernel)):
        layers += [nn.GELU(), nn.Conv2d(before, after, k, padding=k // 2)]
    last = nn.Conv2d(hidden, outputs, 1)
    with torch.no_grad():
        last.weight.mul_(output_scale)
        nn.init.zeros_(cast(Tensor, last.bias))
    return nn.Sequential(*layers, nn.GELU(), last)


def checked_blocks(blocks: Sequence[tuple[int, int]], size: int) -> tuple[tuple[int, int], ...]:
    """Return `blocks` as a tuple of pairs.

    Args:
        blocks: pairs (resolution, number of levels).
        size: height and width of the images.

    Raises:
        TypeError: not pairs.
        ValueError: a number is no integer >= 1, or the resolutions do not divide.
    """
    check_integer(size=size)
    if not isinstance(blocks, Sequence) or not all(isinstance(b, Sequence) and len(b) == 2 for b in blocks):
        raise TypeError(f"blocks={blocks!r}: expected pairs (resolution, number of levels), e.g. ((1, 1), (4, 2))")
    pairs = tuple((resolution, count) for resolution, count in blocks)
    for resolution, count in pairs:
        check_integer(resolution=resolution, levels=count)
    resolutions = [resolution for resolution, _ in pairs]
    if not resolutions or any(b % a or b == a for a, b in pairwise(resolutions)) or size % resolutions[-1]:
        raise ValueError(
            f"blocks={pairs}, size={size}: expected increasing resolutions; each has to divide the next, the last size"
        )
    return pairs
