"""Brightness and contrast."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hard_aug.evaluation.corruptions.severities import Parameters


def brightness(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Add to the value of (hue, saturation, value), which scales a colour at equal hue and saturation."""
    (added,) = parameters
    value = images.amax(1, keepdim=True)
    brighter = (value + added).clamp(0, 1)
    return torch.where(value > 0, images * (brighter / value.clamp(min=1e-12)), brighter)


def contrast(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Shrink the distance to the mean of the image in each channel."""
    (factor,) = parameters
    means = images.mean((-2, -1), keepdim=True)
    return means + factor * (images - means)
