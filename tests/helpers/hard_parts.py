"""Generations of hard images that are identified by their pixels, and what the tests of their users share."""

from __future__ import annotations

import io
from typing import Any

import torch

from hard_aug.data import HardImages

CLASSES = ("a", "b", "c")


def generation_of(generation: int, rows: int = 20, channels: int = 1, size: int = 4, classes: int = 3) -> HardImages:
    """Hard images whose every pixel has the value `200 + generation`."""
    labels = torch.arange(rows) % classes
    return HardImages(
        images=torch.full((rows, channels, size, size), 200 + generation, dtype=torch.uint8),
        labels=labels,
        soft_labels=0.7 * torch.nn.functional.one_hot(labels, classes) + 0.3 / classes,
        seeds=torch.arange(rows) + 1000 * generation,
        scores_before=torch.zeros(rows),
        scores_after=torch.ones(rows),
        accepted=torch.ones(rows, dtype=torch.bool),
        source=torch.full((rows,), -1),
    )


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """Save and load a state as a checkpoint does."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded
