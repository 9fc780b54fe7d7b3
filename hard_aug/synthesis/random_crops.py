"""RandomCrops: random augmentation for the score of a search."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hard_aug.utils.checks import check_fraction
from hard_aug.utils.settings_repr import SettingsRepr


class RandomCrops(SettingsRepr):
    """Random crops and noise, so that the score does not depend on one exact pattern of pixels (after DiG-IN).

    Args:
        min_side: side of the smallest crop, as a fraction of the image's, in (0, 1]; sides are uniform from there to 1.
        noise: standard deviation of normal noise, in [0, 1).

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> crops = RandomCrops(min_side=0.5)
        >>> crops
        RandomCrops(min_side=0.5, noise=0.005)
        >>> crops(torch.rand(2, 3, 8, 8), [torch.Generator().manual_seed(seed) for seed in (0, 1)]).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, *, min_side: float = 0.75, noise: float = 0.005) -> None:
        check_fraction(min_side=min_side)
        if not 0 <= noise < 1:
            raise ValueError(f"noise={noise}: expected a standard deviation in [0, 1)")
        self.min_side, self.noise = min_side, noise

    def __call__(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return randomly cropped images of the same size.

        Args:
            images: `(B, C, H, W)`.
            generators: one CPU generator for each image.
        """
        drawn = torch.stack([torch.rand(3, generator=g, dtype=torch.float32, device=g.device) for g in generators]).to(
            images
        )
        side = self.min_side + (1 - self.min_side) * drawn[:, 0]
        theta = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
        theta[:, 0, 0], theta[:, 1, 1] = side, side
        theta[:, :, 2] = (1 - side[:, None]) * (2 * drawn[:, 1:] - 1)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        crops = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        noise = torch.stack(
            [torch.randn(images.shape[1:], generator=g, dtype=torch.float32, device=g.device) for g in generators]
        ).to(images)
        return crops + self.noise * noise
