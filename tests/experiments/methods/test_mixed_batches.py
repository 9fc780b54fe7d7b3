"""Batches of real images with hard images among them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.data import Batches
from experiments.methods.mixed_batches import MixedBatches
from hard_aug.data import HardImages, ImageSet, Replay
from tests.helpers.hard_parts import CLASSES, generation_of, saved


@pytest.fixture
def real() -> ImageSet:
    """Images in [0, 0.5), unlike the hard ones."""
    return ImageSet(0.5 * torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 3)


def pool_of(*generations: HardImages) -> Replay:
    pool = Replay(capacity=30, old_fraction=0.3)
    for images in generations:
        pool.add(images)
    return pool


def mixed(real: ImageSet, *generations: HardImages, **settings: Any) -> MixedBatches:
    settings = {"ratio": 0.5, "batch_size": 10, "classes": CLASSES, "seed": 3, **settings}
    return MixedBatches(real, pool_of(*generations), **settings)


def hard(part: ImageSet) -> Tensor:
    """Which rows are hard images, `(N,)` bool."""
    return (part.images > 0.6).flatten(1).all(1)


def equal(a: ImageSet, b: ImageSet) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_the_ratio(real: ImageSet, ratio: float) -> None:
    before = real.images.clone(), real.labels.clone()
    batches = mixed(real, generation_of(0), ratio=ratio)
    found = [batches.next() for _ in range(300)]
    slots = torch.stack([hard(part) for part in found]).float()
    assert float(slots.mean()) == pytest.approx(ratio, abs=4 * math.sqrt(ratio * (1 - ratio) / 3000))
    assert float(slots.mean(1).std()) == pytest.approx(math.sqrt(ratio * (1 - ratio) / 10), rel=0.2)
    assert float((slots.mean(0) - ratio).abs().max()) < 0.15  # no slot is preferred
    for part in found:
        assert torch.equal(part.images[hard(part)], torch.full_like(part.images[hard(part)], 200 / 255))
    assert torch.equal(real.images, before[0])
    assert torch.equal(real.labels, before[1])


def test_without_hard_images_nothing_changes(real: ImageSet) -> None:
    for batches in (mixed(real, ratio=0), mixed(real, generation_of(0), ratio=0)):
        plain = Batches(real, 10, 3)
        assert all(equal(batches.next(), plain.next()) for _ in range(12))


def test_real_rows_are_those_of_plain_batches(real: ImageSet) -> None:
    plain, batches = Batches(real, 10, 3), mixed(real, generation_of(0))
    for _ in range(12):
        expected, found = plain.next(), batches.next()
        assert torch.equal(found.images[~hard(found)], expected.images[~hard(found)])
        assert torch.equal(found.labels[~hard(found)], expected.labels[~hard(found)])


def test_hard_rows_have_the_labels_of_their_images(real: ImageSet) -> None:
    images = generation_of(0)
    images.images[:] = (200 + images.labels[:, None, None, None]).to(torch.uint8)
    found = mixed(real, images, ratio=0.8).next()
    assert int(hard(found).sum()) > 2
    assert torch.equal((found.images[hard(found)] * 255).round()[:, 0, 0, 0], 200.0 + found.labels[hard(found)])


def test_resumed_bit_for_bit(real: ImageSet) -> None:
    whole = mixed(real, generation_of(0))
    for _ in range(7):
        whole.next()
    whole.pool.add(generation_of(1))
    resumed = mixed(real)
    resumed.load_state_dict(saved(whole.state_dict()))
    for step in range(12):
        if step == 5:
            for batches in (whole, resumed):
                batches.pool.add(generation_of(2))
        assert equal(whole.next(), resumed.next())
    assert not equal(mixed(real, generation_of(0), seed=4).next(), mixed(real, generation_of(0), seed=5).next())


def test_rejected_images_are_never_drawn(real: ImageSet) -> None:
    images = generation_of(0)
    images.images[::2] = 255
    batches = mixed(real, replace(images, accepted=torch.arange(20) % 2 == 1), ratio=0.9)
    drawn = torch.cat([part.images[hard(part)] for part in (batches.next() for _ in range(30))])
    assert torch.equal(drawn, torch.full_like(drawn, 200 / 255))


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (generation_of(0), {"ratio": 1.0}, r"ratio=1.0: expected the probability .* \[0, 1\)"),
        (generation_of(0), {"ratio": -0.1}, "ratio=-0.1"),
        (generation_of(0), {"ratio": math.nan}, "ratio=nan"),
        (generation_of(0, size=5), {}, r"hard images of \(C, H, W\) = \(1, 5, 5\): the real ones are \(1, 4, 4\)"),
        (generation_of(0, channels=3), {}, r"= \(3, 4, 4\)"),
        (generation_of(0, classes=4), {}, "hard images of 4 classes: the real data has 3"),
        (generation_of(0), {"classes": ("a", "b")}, "real labels up to 2: expected less than 2"),
        (generation_of(0), {"batch_size": 51}, "batch_size=51"),
    ],
)
def test_invalid_settings_raise(real: ImageSet, images: HardImages, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixed(real, images, **settings)


def test_a_pool_that_is_filled_later(real: ImageSet) -> None:
    batches = mixed(real)
    with pytest.raises(ValueError, match="no hard images to draw from"):
        batches.next()
    batches.pool.add(generation_of(0, size=5))
    with pytest.raises(ValueError, match=r"= \(1, 5, 5\)"):
        batches.next()
