"""Pixelation and JPEG compression."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hard_aug.evaluation.corruptions.severities import Parameters


def _each(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Apply a function to each image as an 8-bit Pillow image."""
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    grey = pixels.shape[-1] == 1
    changed = [np.asarray(change(Image.fromarray(each[..., 0] if grey else each))) for each in pixels]
    return torch.from_numpy(np.stack(changed)).reshape(pixels.shape).permute(0, 3, 1, 2).to(torch.float32) / 255


def pixelate(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Shrink and enlarge with a box filter."""
    (factor,) = parameters

    def change(image: Image.Image) -> Image.Image:
        width, height = image.size
        small = image.resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
        return small.resize((width, height), Image.Resampling.BOX)

    return _each(images, change)


def jpeg_compression(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Encode as JPEG and decode."""
    (quality,) = parameters

    def change(image: Image.Image) -> Image.Image:
        file = BytesIO()
        image.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return _each(images, change)
