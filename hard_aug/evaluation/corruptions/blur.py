"""Defocus blur and zoom blur, and the zoom that the latter averages."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from hard_aug.evaluation.corruptions.severities import Parameters


def disk(radius: float, deviation: float) -> Tensor:
    """Return a disk with soft edges, `(K, K)`, whose sum is about 1.

    Args:
        radius: in pixels; below 1 the disk is its central pixel alone.
        deviation: standard deviation of the Gaussian of 3 pixels (5 for a radius above 8) that softens it.
    """
    reach = 8 if radius <= 8 else math.floor(radius)
    axis = np.arange(-reach, reach + 1)
    solid = (axis[None] ** 2 + axis[:, None] ** 2 <= radius**2).astype(np.float64)
    taps = 1 if radius <= 8 else 2
    for direction in (0, 1):
        solid = gaussian_filter1d(solid, deviation, axis=direction, mode="mirror", radius=taps)
    return torch.from_numpy(solid / (axis[None] ** 2 + axis[:, None] ** 2 <= radius**2).sum()).to(torch.float32)


def defocus_blur(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Convolve with a disk, as a lens out of focus does."""
    kernel = disk(*parameters)
    reach = len(kernel) // 2
    planes = F.pad(images.flatten(0, 1)[:, None], (reach,) * 4, mode="reflect")
    return F.conv2d(planes, kernel[None, None]).reshape(images.shape)


def clipped_zoom(images: Tensor, factor: float) -> Tensor:
    """Enlarge the centre of the images by `factor` (>= 1) to their size, bilinearly with the corners aligned."""
    height, width = images.shape[-2:]
    tall, wide = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - tall) // 2, (width - wide) // 2
    middle = images[..., top : top + tall, left : left + wide]
    size = (round(tall * factor), round(wide * factor))
    zoomed = F.interpolate(middle, size=size, mode="bilinear", align_corners=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return zoomed[..., top : top + height, left : left + width]


def zoom_blur(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Average the image and its zooms, as a camera does that moves towards the scene."""
    factors = np.arange(*parameters)
    total = images.clone()
    for factor in factors:
        total += clipped_zoom(images, float(factor))
    return total / (len(factors) + 1)
