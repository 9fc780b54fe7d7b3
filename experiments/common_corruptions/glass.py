"""Blur of frosted glass: pixels take their value from near by, in an image that is smoothed before and after.

The published script means to swap each pixel with a neighbour. In an array of colours that swap is an assignment
through views, so the pixel takes the neighbour's value and the neighbour keeps it. The published images are made so,
and so are ours, grey ones too.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from experiments.common_corruptions.severities import Parameters


def _smooth(images: np.ndarray, deviation: float) -> np.ndarray:
    smoothed: np.ndarray = gaussian_filter(images, (0, 0, deviation, deviation), mode="nearest")
    return smoothed


def sources(
    count: int, height: int, width: int, *, reach: int, rounds: int, generator: np.random.Generator
) -> np.ndarray:
    """Where each pixel's value comes from, `(height * width, count)`, as the flat index of a pixel.

    Args:
        count: of images; each has draws of its own.
        reach: displacements are whole numbers in [-reach, reach).
        rounds: over all pixels, from the last to the first; a pixel may take what another one has taken.
    """
    found = np.repeat(np.arange(height * width)[:, None], count, axis=1)
    columns = np.arange(count)
    for _ in range(rounds):
        for row in range(height - reach, reach, -1):
            down, right = generator.integers(-reach, reach, (2, width, count))
            for column in range(width - reach, reach, -1):
                taken = (row + down[column]) * width + column + right[column]
                found[row * width + column] = found[taken, columns]
    return found


def glass_blur(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    deviation, reach, rounds = parameters
    count, channels, height, width = images.shape
    pixels = np.floor(_smooth(images.numpy(), deviation) * 255 + 1e-3) / 255
    taken = sources(count, height, width, reach=int(reach), rounds=int(rounds), generator=generator)
    flat = pixels.reshape(count, channels, height * width)
    shuffled = np.take_along_axis(flat, taken.T[:, None], axis=2).reshape(images.shape)
    return torch.from_numpy(_smooth(shuffled, deviation)).to(torch.float32)
