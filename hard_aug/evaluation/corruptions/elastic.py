"""Elastic transform: a random affine map, then a smooth random displacement of each pixel.

Interpolation is bilinear, with the image mirrored outside: about its edge pixels for the affine map, about its border
for the displacement. (OpenCV, which the published script uses, rounds positions of the affine map to 1/32 pixel.)
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from hard_aug.evaluation.corruptions.severities import Parameters


def _sample(images: Tensor, columns: np.ndarray, rows: np.ndarray, *, mirror_pixels: bool) -> Tensor:
    """Sample the images at positions `(B, H, W)`, in pixels."""
    height, width = images.shape[-2:]
    if mirror_pixels:
        x, y = 2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1
    else:
        x, y = (2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1
    grid = torch.from_numpy(np.stack((x, y), -1).astype(np.float32))
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=mirror_pixels)


def _affine(count: int, height: int, width: int, largest: float, generator: np.random.Generator) -> np.ndarray:
    """Draw maps `(B, 2, 3)` from (x, y, 1) of the result to the image: three points move by up to `largest`."""
    middle = np.array([height, width]) // 2
    reach = min(height, width) // 3
    before = middle + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    after = before + generator.uniform(-largest, largest, (count, 3, 2))
    target = np.concatenate((after, np.ones((count, 3, 1))), -1)
    return np.linalg.solve(target, np.broadcast_to(before.astype(np.float64), (count, 3, 2))).transpose(0, 2, 1)


def elastic_transform(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Warp by a random affine map and a smooth random displacement field."""
    count, _, height, width = images.shape
    amplitude, deviation, largest = (value * min(height, width) for value in parameters)
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    maps = _affine(count, height, width, largest, generator)
    ones = np.stack((columns, rows, np.ones_like(rows)))
    x, y = np.einsum("bij,jhw->ibhw", maps, ones)
    images = _sample(images, x, y, mirror_pixels=True)
    across, down = (
        amplitude
        * gaussian_filter(
            generator.uniform(-1, 1, (count, height, width)), (0, deviation, deviation), mode="reflect", truncate=3
        )
        for _ in range(2)
    )
    return _sample(images, columns + across, rows + down, mirror_pixels=False)
