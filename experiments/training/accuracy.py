"""Accuracy on test sets.

A set whose name contains a slash, such as `corrupted/fog`, is a subset of the set before the slash; summary tables omit
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hard_aug import synthesis
from hard_aug.data import ConcatImageSet, ImageSet
from hard_aug.models import Network

#: Bytes of the float32 images of one forward pass: large images are evaluated in smaller batches.
BATCH_BYTES = 128 * 2**20


def predict_classes(logits: Tensor, among: Tensor | None) -> Tensor:
    """Return the predicted class, `(B,)`, of logits `(B, K)`.

    Args:
        logits: `(B, K)`.
        among: `(S,)`, the classes that a prediction may take; None: all.
    """
    return logits.argmax(1) if among is None else among[logits[:, among].argmax(1)]


def accuracy(model: nn.Module, part: ImageSet, *, batch_size: int = 1000) -> float:
    """Return the accuracy, in [0, 1], in evaluation mode; the model's training mode is restored afterwards.

    Args:
        model: maps images to logits.
        part: images and labels.
        batch_size: the largest number of images of one forward pass.

    Raises:
        ValueError: no images.
    """
    if len(part) == 0:
        raise ValueError("accuracy requires at least one image")
    if isinstance(part, ConcatImageSet):
        return _mean(part, [accuracy(model, each, batch_size=batch_size) for each in part.parts])
    batch_size = max(1, min(batch_size, BATCH_BYTES // (4 * math.prod(part.shape))))
    correct, network = 0, Network(model, name="model")
    for start in range(0, len(part), batch_size):
        batch = part[slice(start, start + batch_size)].materialize()
        logits = network.evaluate(batch.images, check_finite=False)  # a network that diverged is wrong
        correct += int((predict_classes(logits, part.class_subset) == batch.labels).sum())
    return correct / len(part)


def _mean(joined: ConcatImageSet, values: list[float]) -> float:
    correct = sum(len(part) * value for part, value in zip(joined.parts, values, strict=True))
    return correct / len(joined)


def accuracies(model: nn.Module, sets: dict[str, ImageSet]) -> dict[str, float]:
    """Return the accuracy on each set, rounded to five digits. Sets that are part of another one are evaluated once.

    Args:
        model: maps images to logits.
        sets: test sets by name.
    """
    values: dict[int, float] = {}

    def value(part: ImageSet) -> float:
        if id(part) not in values:
            joined = isinstance(part, ConcatImageSet)
            values[id(part)] = _mean(part, [value(each) for each in part.parts]) if joined else accuracy(model, part)
        return values[id(part)]

    return {name: round(value(part), 5) for name, part in sets.items()}


def summary_sets(sets: Iterable[str]) -> list[str]:
    """Return the sets that have a column in summary tables: all that are not a subset of another one."""
    return [name for name in sets if "/" not in name]


def finite_failure_metrics(
    images: Tensor, unguided: Tensor, labels: Tensor, *, teacher: nn.Module, **others: Any
) -> dict[str, float]:
    """Return the failure metrics of images that are finite, rounded to four digits, for JSON.

    Args:
        images: `(B, C, H, W)`, uint8 or float in [0, 1], on any device.
        unguided: the images to compare with, likewise.
        labels: `(B,)`.
        teacher: teacher of the search, on the device that is used.
        **others: further arguments of `hard_aug.synthesis.failure_metrics`.
    """
    device = next(teacher.parameters()).device
    shown, plain = (
        (each.float() / 255 if each.dtype == torch.uint8 else each).to(device) for each in (images, unguided)
    )
    found = synthesis.failure_metrics(shown, plain, labels.to(device), teacher=teacher, **others)
    return {name: round(value, 4) for name, value in found.items() if math.isfinite(value)}
