"""Shifts by whole pixels."""

from __future__ import annotations

import torch

from experiments.tasks import random_shift, shift, shifted_test_sets
from hard_aug.data import ImageSet


def test_a_shift_moves_content_and_fills_with_zero() -> None:
    image = torch.zeros(1, 1, 6, 8)
    image[0, 0, 2, 3] = 1
    moved = shift(image, torch.tensor([[2, -1]]))
    assert moved[0, 0, 1, 5] == 1
    assert float(moved.sum()) == 1
    assert float(shift(image, torch.tensor([[7, 0]])).sum()) == 0
    assert torch.equal(shift(image, torch.tensor([[0, 0]])), image)


def test_sets_show_each_image_in_all_corners() -> None:
    part = ImageSet(torch.zeros(2, 1, 9, 9), torch.tensor([4, 7]))
    part.images[:, 0, 4, 4] = 1
    sets = shifted_test_sets(part, 3)
    assert sets["shifted"].labels.tolist() == [4, 7] * 4
    positions = sets["shifted"].images[:, 0].flatten(1).argmax(1)
    assert sorted({(int(p) // 9, int(p) % 9) for p in positions}) == [(1, 1), (1, 7), (7, 1), (7, 7)]
    assert torch.equal(sets["clean"].images, part.images)


def test_random_shifts_cover_the_range_evenly() -> None:
    images = torch.zeros(4000, 1, 7, 7)
    images[:, 0, 3, 3] = 1
    position = random_shift(images, 2, torch.Generator().manual_seed(0))[:, 0].flatten(1).argmax(1)
    columns = (position % 7).bincount(minlength=7)
    assert columns[[0, 6]].tolist() == [0, 0]
    assert all(700 < int(count) < 900 for count in columns[1:6])
