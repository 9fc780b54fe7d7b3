"""Blur of a lens that is out of focus, of a camera that moves towards the scene, and the zoom that this is made of."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from experiments.common_corruptions.severities import Parameters


def disk(radius: float, deviation: float) -> Tensor:
    """A disk with soft edges, `(K, K)`, of sum about 1.

    Args:
        radius: pixels; below 1 the disk is its middle alone.
        deviation: of the Gaussian of 3 pixels (5 for a radius above 8) that softens it.
    """
    reach = 8 if radius <= 8 else math.floor(radius)
    axis = np.arange(-reach, reach + 1)
    solid = (axis[None] ** 2 + axis[:, None] ** 2 <= radius**2).astype(np.float64)
    taps = 1 if radius <= 8 else 2
    for direction in (0, 1):
        solid = gaussian_filter1d(solid, deviation, axis=direction, mode="mirror", radius=taps)
    return torch.from_numpy(solid / (axis[None] ** 2 + axis[:, None] ** 2 <= radius**2).sum()).to(torch.float32)


def defocus_blur(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    kernel = disk(*parameters)
    reach = len(kernel) // 2
    planes = F.pad(images.flatten(0, 1)[:, None], (reach,) * 4, mode="reflect")
    return F.conv2d(planes, kernel[None, None]).reshape(images.shape)


def clipped_zoom(images: Tensor, factor: float) -> Tensor:
    """The middle of the images, enlarged by `factor` (1 or more) to their size, bilinear with the corners aligned."""
    height, width = images.shape[-2:]
    tall, wide = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - tall) // 2, (width - wide) // 2
    middle = images[..., top : top + tall, left : left + wide]
    size = (round(tall * factor), round(wide * factor))
    zoomed = F.interpolate(middle, size=size, mode="bilinear", align_corners=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return zoomed[..., top : top + height, left : left + width]


def zoom_blur(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """The mean of the image and of its zooms."""
    factors = np.arange(*parameters)
    total = images.clone()
    for factor in factors:
        total += clipped_zoom(images, float(factor))
    return total / (len(factors) + 1)
