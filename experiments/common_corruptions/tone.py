"""Brightness and contrast."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from experiments.common_corruptions.severities import Parameters


def brightness(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Add to the value of (hue, saturation, value); colours of equal hue and saturation are in proportion to it."""
    (added,) = parameters
    value = images.amax(1, keepdim=True)
    brighter = (value + added).clamp(0, 1)
    return torch.where(value > 0, images * (brighter / value.clamp(min=1e-12)), brighter)


def contrast(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Shrink the distance to the mean of the image, each channel for itself."""
    (factor,) = parameters
    means = images.mean((-2, -1), keepdim=True)
    return means + factor * (images - means)
