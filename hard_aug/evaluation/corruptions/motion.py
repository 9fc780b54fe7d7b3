"""Motion blur along a line, as ImageMagick's `motion-blur` does it: half a Gaussian, to one side of the pixel.

Positions on the line are rounded to whole pixels: tap i is i pixels away, rounded on each axis. Outside the image its
edge pixels continue.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from hard_aug.evaluation.corruptions.severities import Parameters


def taps(radius: float, deviation: float) -> Tensor:
    """Return the weights of the pixels 0, 1, ... away, `(2 radius + 1,)`, whose sum is 1."""
    distances = torch.arange(2 * math.ceil(radius) + 1, dtype=torch.float64, device="cpu")
    weights = torch.exp(-(distances**2) / (2 * deviation**2))
    return (weights / weights.sum()).to(torch.float32)


def along_line(images: Tensor, *, radius: float, deviation: float, angles: Tensor) -> Tensor:
    """Blur each image along its line.

    Args:
        images: `(B, C, H, W)`.
        radius: of the kernel, pixels.
        deviation: standard deviation of the Gaussian, pixels.
        angles: `(B,)`, degrees, clockwise from the horizontal axis.
    """
    height, width = images.shape[-2:]
    right, down = torch.cos(torch.deg2rad(angles)), torch.sin(torch.deg2rad(angles))
    batch = torch.arange(len(images), device="cpu")[:, None, None]
    blurred = torch.zeros_like(images)
    for distance, weight in enumerate(taps(radius, deviation)):
        moved_right, moved_down = (torch.ceil(distance * part - 0.5).to(torch.int64) for part in (right, down))
        columns = (torch.arange(width, device="cpu") + moved_right[:, None]).clamp(0, width - 1)
        rows = (torch.arange(height, device="cpu") + moved_down[:, None]).clamp(0, height - 1)
        seen = images[batch, :, rows[:, :, None], columns[:, None, :]]
        blurred += weight * seen.permute(0, 3, 1, 2)
    return blurred


def motion_blur(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Blur along a random line within 45 degrees of the horizontal."""
    radius, deviation = parameters
    angles = torch.from_numpy(generator.uniform(-45, 45, len(images)))
    return along_line(images, radius=radius, deviation=deviation, angles=angles)
