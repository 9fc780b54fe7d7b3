"""Accuracy on test sets."""

from __future__ import annotations

import math

import torch
from torch import nn

from experiments.data import Part
from hard_aug.models import evaluation_mode


@torch.no_grad()
def accuracy(model: nn.Module, part: Part, *, batch_size: int = 1000) -> float:
    """The share of images, in [0, 1], whose top class is the label. In evaluation mode; the model's own is kept."""
    if len(part) == 0:
        raise ValueError("accuracy wants at least one image")
    right = 0
    with evaluation_mode(model):
        for start in range(0, len(part), batch_size):
            batch = part[slice(start, start + batch_size)]
            right += int((model(batch.images).argmax(1) == batch.labels).sum())
    return right / len(part)


def accuracies(model: nn.Module, sets: dict[str, Part]) -> dict[str, float]:
    """`accuracy` by name of the set, rounded to five digits."""
    return {name: round(accuracy(model, part), 5) for name, part in sets.items()}


def finite(numbers: dict[str, float]) -> dict[str, float]:
    """Those that are, rounded to four digits, for a JSON."""
    return {name: round(value, 4) for name, value in numbers.items() if math.isfinite(value)}
