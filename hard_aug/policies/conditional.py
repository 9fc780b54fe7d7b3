"""Conditional: a network from the image to a normal distribution of `u`, so that each image gets its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug.policies.base import (
    Policy,
    building,
    initialise_network,
    log_std_at_start,
    normal_quantiles,
    std_of_reach,
)
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.checks import as_seed, check_integer
from hard_aug.utils.rng import randn

SIDE = 16
QUANTILES = 16


class Conditional(Policy):
    """`u = mean(x) + std(x) e`, `e ~ N(0, I)`; both depend on the image `x`, though not yet at the start.

    The image, average-pooled to 16 x 16, goes through two strided convolutions and a hidden layer.

    Its relative entropy is the mean over the images, in closed form: a policy that is one point for each image counts
    as collapsed, however far the points are apart. Its relative variance is that of all images' draws together.

    Args:
        spec: the transform's parameters, `transform.spec`.
        channels: of the images.
        std: standard deviation of each `u` at the start, above 0; None: each parameter's `start`, mostly 0.3.
        width: channels of the first convolution; the hidden layer has four times as many units.
        seed: of the initial weights.

    Raises:
        ValueError: images of other channels, no images where they are required, or settings that are not positive.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Affine
        >>> policy = Conditional(Affine().spec, channels=1)
        >>> policy.sample(torch.rand(4, 1, 28, 28), torch.Generator()).shape
        torch.Size([4, 6])
    """

    learning_rate = 0.003
    starts_from_reach = True
    is_conditional = True
    quantiles: Tensor

    def __init__(
        self,
        spec: tuple[Parameter, ...],
        *,
        channels: int = 3,
        std: float | None = None,
        width: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(spec)
        check_integer(width=width, channels=channels)
        self.channels, self.width = channels, width = int(channels), int(width)
        self.std, self.seed = None if std is None else float(std), as_seed(seed)
        with building() as place:
            self.network = nn.Sequential(
                nn.Conv2d(channels, width, 3, 2, 1, **place),
                nn.SiLU(),
                nn.Conv2d(width, 2 * width, 3, 2, 1, **place),
                nn.SiLU(),
                nn.Flatten(),
                nn.Linear(2 * width * (SIDE // 4) ** 2, 4 * width, **place),
                nn.SiLU(),
                nn.Linear(4 * width, 2 * self.size, **place),
            )
        initialise_network(self.network, torch.Generator().manual_seed(self.seed))
        self.log_std = nn.Parameter(log_std_at_start(spec, std))
        self.register_buffer("quantiles", normal_quantiles(QUANTILES), persistent=False)

    @torch.no_grad()
    def set_reach(self, reach: Tensor) -> None:
        """See `Policy.set_reach`."""
        self.log_std.copy_(std_of_reach(self.checked_reach(reach)).log())

    def distribution(self, images: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of `u`, `(B, P)` each, for images `(B, C, H, W)`."""
        if images is None:
            raise ValueError("a Conditional has another distribution for each image: pass images (B, C, H, W)")
        if images.ndim != 4 or images.shape[1] != self.channels:
            fits = images.shape[1] if images.ndim == 4 else "..."
            raise ValueError(
                f"this Conditional expects images (B, {self.channels}, H, W), got {tuple(images.shape)}; "
                f"create it with Conditional(transform.spec, channels={fits})"
            )
        seen = F.adaptive_avg_pool2d(images.detach().to(self.log_std.dtype), SIDE)
        # On a GPU bad pixels are reported later, by HardAugmenter.check(); until then they make no bad parameters.
        seen = seen.nan_to_num(0.0, 1.0, 0.0)
        mean, change = self.network(2 * seen - 1).chunk(2, dim=1)
        return mean, (self.log_std + change).exp()

    def _spread_over(self, images: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, std = self.distribution(images)
        if not len(mean):
            raise ValueError("the spread of a Conditional is a mean over images: expected at least one, got none")
        return mean, std

    def sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Policy.sample`."""
        mean, std = self.distribution(images)
        return mean + std * randn((len(images), self.size), generator)

    def relative_entropy(self, images: Tensor | None = None) -> Tensor:
        """See `Policy.relative_entropy`."""
        mean, std = self._spread_over(images)
        return 0.5 * (1 + 2 * std.log() - std.square() - mean.square()).sum(1).mean()

    @torch.no_grad()
    def relative_variance(self, images: Tensor | None = None) -> Tensor:
        """See `Policy.relative_variance`."""
        mean, std = self._spread_over(images)
        return self.relative_variance_of((mean + std * self.quantiles[:, None, None]).flatten(0, 1))
