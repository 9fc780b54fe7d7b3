"""A network for configurations, and small data, for tests that run whole experiments."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from experiments.data import sources as data
from hard_aug.data import Splits


def use_few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the validation and test images of the embedded digits to 60 and 120, so that evaluation is fast."""
    whole = data._mnist5k()
    few = Splits(whole.train, whole.validation[slice(0, 60)], whole.test[slice(0, 120)], whole.classes)
    monkeypatch.setattr(data, "_mnist5k", lambda: few)


class PlainStudent(nn.Module):
    """A network without dropout and BatchNorm: the result does not depend on the number of processes."""

    def __init__(self, *, size: int = 28, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, 32), nn.Tanh(), nn.Linear(32, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)`."""
        found: Tensor = self.layers(images)
        return found
