"""Hard images in memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from hard_aug.data import HardImages
from tests.helpers.shard_parts import hard, same


def test_a_data_loader_gives_images_in_the_unit_interval_and_labels() -> None:
    images = hard(0)
    image, label = images[4]
    assert torch.equal(image, images.images[4].float() / 255)
    assert label == int(images.labels[4])
    batches = list(DataLoader(images, batch_size=4))
    assert torch.equal(torch.cat([x for x, _ in batches]), images.images.float() / 255)
    assert torch.equal(torch.cat([y for _, y in batches]), images.labels)
    assert torch.equal(images[-1][0], images[5][0])
    with pytest.raises(IndexError):
        images[6]


def test_selections_keep_what_is_known_about_each_image() -> None:
    images = hard(0)
    kept = images[images.accepted]
    assert kept.seeds.tolist() == images.seeds[images.accepted].tolist()
    assert bool(kept.accepted.all())
    assert repr(kept) == "HardImages(4 images, (3, 5, 5), 4 accepted)"
    assert same(HardImages.cat([images[slice(0, 2)], images[torch.arange(2, 6)]]), images)
    assert same(images.to(torch.device("cpu")), images)


def test_invalid_images_raise() -> None:
    good = hard(0)
    changed: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
        ({"images": good.images.float()}, TypeError, r"images is torch.float32: expected torch.uint8"),
        ({"labels": good.labels.int()}, TypeError, "labels is torch.int32"),
        ({"images": good.images[:, 0]}, ValueError, "images has the shape"),
        ({"images": good.images[:, :2]}, ValueError, "images of 2 channels"),
        ({"seeds": good.seeds[:-1]}, ValueError, r"seeds has the shape \(5,\): expected 1 axes, 6 rows"),
        ({"labels": good.labels + 1}, ValueError, "labels from 1 to 3: expected 0 to 2"),
        ({"labels": good.labels - 1}, ValueError, "labels from -1"),
        ({"soft_labels": good.soft_labels.log()}, ValueError, "not probabilities"),
        ({"soft_labels": good.soft_labels * math.nan}, ValueError, "not probabilities"),
        ({"scores_after": good.scores_after * math.inf}, ValueError, "not finite"),
    )
    for settings, kind, message in changed:
        with pytest.raises(kind, match=message):
            replace(good, **settings)
