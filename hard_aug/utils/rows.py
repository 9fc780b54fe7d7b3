"""Parts of a batch."""

from __future__ import annotations


def rows_of(fraction: float, batch: int) -> int:
    """Return how many of `batch` images a fraction in (0, 1] is: at least one, if there are any."""
    return min(batch, max(1, round(fraction * batch)))
