"""Networks whose invariances are known by construction, and images for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIZE = 16


class Rows(nn.Module):
    """Predicts the brightest row: invariant to everything that moves along x (and stays inside)."""

    def forward(self, images: Tensor) -> Tensor:
        return 20 * images.sum((1, 3))


class Pixels(nn.Module):
    """Predicts the brightest pixel of the middle columns: sensitive to everything that moves it."""

    def forward(self, images: Tensor) -> Tensor:
        return 20 * images[:, 0, :, SIZE // 2 - 1 : SIZE // 2 + 1].sum(2)


def dots() -> Tensor:
    """`(8, 1, 16, 16)`: one bright dot each, in the middle columns, in a row of its own."""
    images = torch.zeros(8, 1, SIZE, SIZE)
    for index in range(8):
        images[index, 0, index + 4, SIZE // 2 - 1 : SIZE // 2 + 1] = 1
    return images
