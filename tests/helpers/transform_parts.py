"""Parameters and images for tests of transforms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hard_aug.transforms import Transform


def u_of(transform: Transform, **values: float) -> Tensor:
    """`u`, `(1, P)`, float64, that decodes to physical values given by name; the identity elsewhere."""
    fractions = []
    for parameter in transform.spec:
        value, identity, high = values.get(parameter.name, parameter.identity), parameter.identity, parameter.high
        if parameter.logarithmic:
            value, identity, high = math.log(value), math.log(identity), math.log(high)
        fractions.append((value - identity) / (high - identity))
    return math.sqrt(2) * torch.erfinv(torch.tensor([fractions], dtype=torch.float64))


def smooth_images(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Smooth float64 images in [0, 1] that vanish at the border."""
    y = torch.linspace(-1, 1, height, dtype=torch.float64)[:, None]
    x = torch.linspace(-1, 1, width, dtype=torch.float64)[None]
    phases = torch.arange(batch * channels, dtype=torch.float64).view(batch, channels, 1, 1)
    waves = 0.5 + 0.3 * torch.sin(2 * x + phases) * torch.cos(1.5 * y - phases)
    return waves * (1 - x**2) ** 2 * (1 - y**2) ** 2
