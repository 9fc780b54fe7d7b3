"""Accuracy on test sets.

A set whose name has a slash, `corrupted/fog`, is a detail of the one before the slash; tables may leave it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from experiments.parts import Joined, Part
from hard_aug.models import evaluation_mode

#: Bytes of the images of a forward, as float32: large pictures go in smaller batches.
BATCH_BYTES = 128 * 2**20


def answers(logits: Tensor, among: Tensor | None) -> Tensor:
    """The top class, `(B,)`, of logits `(B, K)`, of all classes or of those `among`, `(S,)`, that can be meant."""
    return logits.argmax(1) if among is None else among[logits[:, among].argmax(1)]


@torch.no_grad()
def accuracy(model: nn.Module, part: Part, *, batch_size: int = 1000) -> float:
    """The share of images, in [0, 1], whose top class is the label. In evaluation mode; the model's own is kept."""
    if len(part) == 0:
        raise ValueError("accuracy wants at least one image")
    if isinstance(part, Joined):
        return _mean(part, [accuracy(model, each, batch_size=batch_size) for each in part.parts])
    batch_size = max(1, min(batch_size, BATCH_BYTES // (4 * math.prod(part.shape))))
    right = 0
    with evaluation_mode(model):
        for start in range(0, len(part), batch_size):
            batch = part[slice(start, start + batch_size)].in_memory()
            part.prefetch(slice(start + batch_size, start + 2 * batch_size))
            right += int((answers(model(batch.images), part.among) == batch.labels).sum())
    return right / len(part)


def _mean(joined: Joined, shares: list[float]) -> float:
    right = sum(len(part) * share for part, share in zip(joined.parts, shares, strict=True))
    return right / len(joined)


def accuracies(model: nn.Module, sets: dict[str, Part]) -> dict[str, float]:
    """`accuracy` by name of the set, rounded to five digits. What is joined of other sets is not asked for twice."""
    shares: dict[int, float] = {}

    def share(part: Part) -> float:
        if id(part) not in shares:
            joined = isinstance(part, Joined)
            shares[id(part)] = _mean(part, [share(each) for each in part.parts]) if joined else accuracy(model, part)
        return shares[id(part)]

    return {name: round(share(part), 5) for name, part in sets.items()}


def headline(sets: Iterable[str]) -> list[str]:
    """The sets that a table has a column for: all but the details."""
    return [name for name in sets if "/" not in name]


def finite(numbers: dict[str, float]) -> dict[str, float]:
    """Those that are, rounded to four digits, for a JSON."""
    return {name: round(value, 4) for name, value in numbers.items() if math.isfinite(value)}
