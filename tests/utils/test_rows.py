"""A fraction of a batch is at least one image, and none of an empty batch."""

from __future__ import annotations

import pytest
import torch

from hard_aug.utils.rows import cat_rows, rows_of


@pytest.mark.parametrize(
    ("fraction", "batch", "rows"), [(1.0, 8, 8), (0.25, 8, 2), (0.25, 10, 2), (0.01, 8, 1), (0.5, 1, 1), (0.5, 0, 0)]
)
def test_a_fraction_of_a_batch(fraction: float, batch: int, rows: int) -> None:
    assert rows_of(fraction, batch) == rows


def test_an_empty_batch_changes_nothing_of_the_other() -> None:
    images = torch.rand(2, 3, 4, 4).half().contiguous(memory_format=torch.channels_last)
    assert cat_rows(images, images[:0]) is images
    assert cat_rows(images[:0], images) is images
    with torch.autocast("cpu", torch.bfloat16):  # where torch.cat refuses float16
        both = cat_rows(images, images)
    assert both.dtype == torch.float16
    assert torch.equal(both, torch.cat((images, images)))
