"""Parts of a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_of(fraction: float, batch: int) -> int:
    """Return how many of `batch` images a fraction in (0, 1] is: at least one, if there are any."""
    return min(batch, max(1, round(fraction * batch)))


def cat_rows(first: Tensor, second: Tensor) -> Tensor:
    """Concatenate two batches; an empty one changes neither the memory format nor the dtype of the other.

    It runs outside of the caller's autocast, which on the CPU refuses float16.
    """
    if not len(second):
        return first
    if not len(first):
        return second
    with torch.autocast(first.device.type, enabled=False):
        return torch.cat((first, second))
