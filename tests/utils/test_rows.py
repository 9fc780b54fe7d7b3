"""A fraction of a batch is at least one image, and none of an empty batch."""

from __future__ import annotations

import pytest

from hard_aug.utils.rows import rows_of


@pytest.mark.parametrize(
    ("fraction", "batch", "rows"), [(1.0, 8, 8), (0.25, 8, 2), (0.25, 10, 2), (0.01, 8, 1), (0.5, 1, 1), (0.5, 0, 0)]
)
def test_a_fraction_of_a_batch(fraction: float, batch: int, rows: int) -> None:
    assert rows_of(fraction, batch) == rows
