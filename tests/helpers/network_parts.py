"""Small convolutional networks that do something to their images first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

CLASSES = 5


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def plain(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, CLASSES))


class Start(nn.Module):
    """A network that does something to its images first."""

    def __init__(self, start: Callable[[Tensor], Any], network: nn.Module | None = None) -> None:
        super().__init__()
        self.start, self.network = start, plain() if network is None else network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.start(x))  # type: ignore[no-any-return]  # a tensor
