"""What files and screens do to images: large pixels, and JPEG."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from experiments.common_corruptions.severities import Parameters


def _each(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Change pictures of 8 bits one by one."""
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    grey = pixels.shape[-1] == 1
    changed = [np.asarray(change(Image.fromarray(each[..., 0] if grey else each))) for each in pixels]
    return torch.from_numpy(np.stack(changed)).reshape(pixels.shape).permute(0, 3, 1, 2).to(torch.float32) / 255


def pixelate(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Shrink and enlarge, the mean of what a pixel covers both times."""
    (factor,) = parameters

    def change(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        small = picture.resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
        return small.resize((width, height), Image.Resampling.BOX)

    return _each(images, change)


def jpeg_compression(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    (quality,) = parameters

    def change(picture: Image.Image) -> Image.Image:
        file = BytesIO()
        picture.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return _each(images, change)
