"""Seven simple corruptions of images in [0, 1], at one strength each, for test sets outside the training distribution.

| corruption | definition |
|---|---|
| `noise` | Gaussian noise, standard deviation 0.2 |
| `blur` | Gaussian blur, standard deviation 1.5 pixels |
| `contrast` | distance to the mean of the image, times 0.3 |
| `brightness` | 0.3 added |
| `rotation` | 25 degrees in either direction |
| `shear` | 20 degrees in either direction |
| `pixelate` | shrunk to a third and enlarged |

These are ours, not a published set of corruptions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import rotate, shear
from torch import Tensor

from hard_aug.data import ImageSet


def _signs(images: Tensor, generator: torch.Generator) -> Tensor:
    return (2 * torch.randint(2, (len(images),), generator=generator) - 1).to(images)


def _contrast(images: Tensor, generator: torch.Generator) -> Tensor:
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + 0.3 * (images - mean)


def _shear(images: Tensor, generator: torch.Generator) -> Tensor:
    amount = 0.364 * _signs(images, generator)  # the tangent of 20 degrees
    return shear(images, torch.stack((amount, torch.zeros_like(amount)), 1))


def _pixelate(images: Tensor, generator: torch.Generator) -> Tensor:
    small = F.interpolate(images, scale_factor=1 / 3, mode="area")
    return F.interpolate(small, size=images.shape[-2:], mode="nearest")


CORRUPTIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "noise": lambda images, generator: images + 0.2 * torch.randn(images.shape, generator=generator).to(images),
    "blur": lambda images, generator: gaussian_blur2d(images, (9, 9), (1.5, 1.5)),
    "contrast": _contrast,
    "brightness": lambda images, generator: images + 0.3,
    "rotation": lambda images, generator: rotate(images, 25 * _signs(images, generator)),
    "shear": _shear,
    "pixelate": _pixelate,
}


def corrupted(part: ImageSet) -> dict[str, ImageSet]:
    """Return all images under each corruption, by name; the same at each call."""
    generator = torch.Generator().manual_seed(0)
    return {name: ImageSet(make(part.images, generator).clamp(0, 1), part.labels) for name, make in CORRUPTIONS.items()}
