"""Networks that the tests of the training engine name in configurations."""

from __future__ import annotations

from torch import Tensor, nn


class PlainStudent(nn.Module):
    """Neither dropout nor BatchNorm: the same for one process and for several."""

    def __init__(self, *, size: int = 28, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, 32), nn.Tanh(), nn.Linear(32, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)`."""
        found: Tensor = self.layers(images)
        return found
