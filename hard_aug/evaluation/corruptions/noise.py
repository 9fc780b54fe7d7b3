"""Gaussian, shot and impulse noise."""

from __future__ import annotations

import numpy as np
import torch
from skimage.util import random_noise
from torch import Tensor

from hard_aug.evaluation.corruptions.severities import Parameters


def gaussian_noise(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Add Gaussian noise."""
    (deviation,) = parameters
    return images + deviation * torch.from_numpy(generator.standard_normal(images.shape, dtype=np.float32))


def shot_noise(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Draw Poisson counts whose mean is `photons` at white."""
    (photons,) = parameters
    return torch.from_numpy(generator.poisson(images.numpy() * photons).astype(np.float32)) / photons


def impulse_noise(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Add salt-and-pepper noise, independently in each channel."""
    (fraction,) = parameters
    noisy = random_noise(images.numpy(), mode="s&p", amount=fraction, rng=generator)  # type: ignore[no-untyped-call]
    return torch.from_numpy(noisy.astype(np.float32))
