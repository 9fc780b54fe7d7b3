"""Glass blur: each pixel takes the value of a nearby one, in an image that is smoothed before and after.

The published script intends to swap each pixel with a neighbour. In an array with a colour axis that swap is an
assignment through views, so the pixel takes the neighbour's value and the neighbour keeps its own. The published images
are made that way, and so are ours, grey ones too.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from hard_aug.evaluation.corruptions.severities import Parameters


def _smooth(images: np.ndarray, deviation: float) -> np.ndarray:
    return gaussian_filter(images, (0, 0, deviation, deviation), mode="nearest")  # type: ignore[no-any-return]


def sources(
    count: int, height: int, width: int, *, reach: int, rounds: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw where each pixel's value comes from.

    Args:
        count: number of images; each has its own random numbers.
        height: of the images.
        width: of the images.
        reach: displacements are integers in [-reach, reach).
        rounds: passes over all pixels, from the last to the first; a pixel may take what another one has taken.
        generator: source of the random numbers.

    Returns:
        `(height * width, count)`, flat indices of pixels.
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
    """Smooth, displace each pixel at random, and smooth again."""
    deviation, reach, rounds = parameters
    count, channels, height, width = images.shape
    pixels = np.floor(_smooth(images.numpy(), deviation) * 255 + 1e-3) / 255
    taken = sources(count, height, width, reach=int(reach), rounds=int(rounds), generator=generator)
    flat = pixels.reshape(count, channels, height * width)
    shuffled = np.take_along_axis(flat, taken.T[:, None], axis=2).reshape(images.shape)
    return torch.from_numpy(_smooth(shuffled, deviation)).to(torch.float32)
