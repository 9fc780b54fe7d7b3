"""Rough height maps by the diamond-square algorithm, for fog and frost."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def plasma(count: int, size: int, decay: float, generator: np.random.Generator) -> Tensor:
    """Draw height maps, each from 0 to 1.

    The grid is the next power of two and wraps around. Each round halves its step: the middles of squares, then of
    edges, get the mean of their four neighbours and a uniform number within plus or minus the square of a roughness,
    which `decay` divides after each round.

    Args:
        count: number of maps.
        size: their height and width.
        decay: above 1; larger is smoother.
        generator: source of the random numbers.

    Returns:
        `(count, size, size)` float32.
    """
    edge = 1 << (size - 1).bit_length()
    heights = np.zeros((count, edge, edge), dtype=np.float64)
    step, rough = edge, 100.0

    def rolled(grid: np.ndarray, rows: int, columns: int) -> np.ndarray:
        return np.roll(grid, (rows, columns), axis=(1, 2))

    def around(total: np.ndarray) -> np.ndarray:
        return total / 4 + rough * generator.uniform(-rough, rough, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        sides = corners + rolled(corners, -1, 0)
        heights[:, half::step, half::step] = around(sides + rolled(sides, 0, -1))
        middles = heights[:, half::step, half::step]
        heights[:, ::step, half::step] = around(middles + rolled(middles, 1, 0) + corners + rolled(corners, 0, -1))
        heights[:, half::step, ::step] = around(middles + rolled(middles, 0, 1) + corners + rolled(corners, -1, 0))
        step, rough = half, rough / decay
    heights -= heights.min((1, 2), keepdims=True)
    heights /= heights.max((1, 2), keepdims=True)
    return torch.from_numpy(heights[:, :size, :size].astype(np.float32))
