"""Noise of a sensor: electronic, of few photons, of dead pixels."""

from __future__ import annotations

import numpy as np
import torch
from skimage.util import random_noise
from torch import Tensor

from experiments.common_corruptions.severities import Parameters


def gaussian_noise(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    (deviation,) = parameters
    return images + deviation * torch.from_numpy(generator.standard_normal(images.shape, dtype=np.float32))


def shot_noise(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Poisson counts of `photons` at white."""
    (photons,) = parameters
    return torch.from_numpy(generator.poisson(images.numpy() * photons).astype(np.float32)) / photons


def impulse_noise(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Salt and pepper, each value of a pixel for itself."""
    (share,) = parameters
    return torch.from_numpy(random_noise(images.numpy(), mode="s&p", amount=share, rng=generator).astype(np.float32))
