"""Batches of real images with hard images among them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.methods.mixed_batches import MixedBatch, MixedBatches
from experiments.training.loop import Batches
from hard_aug.data import HardImages, ImageSet, Replay, ShardWriter, read_shards
from tests.helpers.hard_parts import CLASSES, generation_of, saved


@pytest.fixture
def real() -> ImageSet:
    """Images in [0, 0.5), unlike the hard ones."""
    return ImageSet(0.5 * torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 3)


def mixed(real: ImageSet, images: Any, **settings: Any) -> MixedBatches:
    return MixedBatches(real, images, **{"ratio": 0.5, "batch_size": 10, "classes": CLASSES, "seed": 3, **settings})


def equal(a: MixedBatch, b: MixedBatch) -> bool:
    both = [(getattr(a, n), getattr(b, n)) for n in ("images", "labels", "hard", "soft_labels")]
    return all(torch.equal(x.nan_to_num(-1), y.nan_to_num(-1)) for x, y in both)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_the_ratio(real: ImageSet, ratio: float) -> None:
    before = real.images.clone(), real.labels.clone()
    batches = mixed(real, generation_of(0), ratio=ratio)
    found = [batches.next() for _ in range(300)]
    shares = torch.stack([part.hard.float().mean() for part in found])
    assert float(shares.mean()) == pytest.approx(ratio, abs=4 * math.sqrt(ratio * (1 - ratio) / 3000))
    assert float(shares.std()) == pytest.approx(math.sqrt(ratio * (1 - ratio) / 10), rel=0.2)
    slots = torch.stack([part.hard for part in found]).float().mean(0)
    assert float((slots - ratio).abs().max()) < 0.15  # no slot is preferred
    for part in found:
        assert torch.equal(part.hard, (part.images > 0.6).flatten(1).all(1))
        assert torch.equal(part.soft_labels.isnan().all(1), ~part.hard)
        assert torch.equal(part.soft_labels[part.hard].argmax(1), part.labels[part.hard])
        assert torch.equal(part.images[part.hard], torch.full_like(part.images[part.hard], 200 / 255))
    assert torch.equal(real.images, before[0])
    assert torch.equal(real.labels, before[1])


def test_without_hard_images_nothing_changes(real: ImageSet) -> None:
    plain = Batches(real, 10, 3)
    for images in (Replay(), generation_of(0), generation_of(0)[:0]):
        batches = mixed(real, images, ratio=0)
        plain.load_state_dict(Batches(real, 10, 3).state_dict())
        for _ in range(12):
            expected, found = plain.next(), batches.next()
            assert torch.equal(found.images, expected.images)
            assert torch.equal(found.labels, expected.labels)
            assert found.soft_labels.shape == (10, 3)
            assert not bool(found.hard.any())


def test_real_rows_are_those_of_plain_batches(real: ImageSet) -> None:
    plain, batches = Batches(real, 10, 3), mixed(real, generation_of(0))
    for _ in range(12):
        expected, found = plain.next(), batches.next()
        assert torch.equal(found.images[~found.hard], expected.images[~found.hard])
        assert torch.equal(found.labels[~found.hard], expected.labels[~found.hard])


@pytest.mark.parametrize("kind", ["fixed", "replay"])
def test_resumed_bit_for_bit(real: ImageSet, kind: str) -> None:
    def images() -> Any:
        if kind == "fixed":
            return generation_of(0)
        pool = Replay(capacity=30, old_fraction=0.3)
        pool.add(generation_of(0))
        return pool

    whole = mixed(real, images())
    for _ in range(7):
        whole.next()
    if kind == "replay":
        whole.pool.add(generation_of(1))
    state = saved(whole.state_dict())
    assert ("pool" in state) == (kind == "replay")
    resumed = mixed(real, images() if kind == "fixed" else Replay(capacity=30, old_fraction=0.3))
    resumed.load_state_dict(state)
    for step in range(12):
        if kind == "replay" and step == 5:
            for batches in (whole, resumed):
                batches.pool.add(generation_of(2))
        assert equal(whole.next(), resumed.next())
    assert not equal(mixed(real, generation_of(0), seed=4).next(), mixed(real, generation_of(0), seed=5).next())


def test_a_state_of_other_images_raises(real: ImageSet) -> None:
    state = mixed(real, generation_of(0)).state_dict()
    other = replace(generation_of(0), labels=generation_of(0).labels.flip(0))
    for images in (generation_of(1), other, Replay()):
        with pytest.raises(ValueError, match="a state with the hard images"):
            mixed(real, images).load_state_dict(state)
    pool = Replay()
    with pytest.raises(ValueError, match="of a Replay"):
        mixed(real, generation_of(0)).load_state_dict(mixed(real, pool).state_dict())


def test_rejected_images_are_never_drawn(real: ImageSet) -> None:
    images = generation_of(0)
    images.images[::2] = 255
    images = replace(images, accepted=torch.arange(20) % 2 == 1)
    batches = mixed(real, images, ratio=0.9)
    drawn = torch.cat([part.images[part.hard] for part in (batches.next() for _ in range(30))])
    assert torch.equal(drawn, torch.full_like(drawn, 200 / 255))


def test_a_store_has_to_have_the_classes_of_the_data(real: ImageSet, tmp_path: Path) -> None:
    ShardWriter(tmp_path, identity={}, classes=CLASSES).write(0, generation_of(0))
    assert bool(mixed(real, read_shards(tmp_path)).next().hard.any())
    with pytest.raises(ValueError, match="the labels do not correspond"):
        mixed(real, read_shards(tmp_path), classes=("b", "a", "c"))


def test_selections_keep_the_soft_labels(real: ImageSet) -> None:
    part = mixed(real, generation_of(0)).next()
    chosen = part[part.hard].to(torch.device("cpu"))
    assert isinstance(chosen, MixedBatch)
    assert len(chosen) == int(part.hard.sum()) > 0
    assert bool(chosen.soft_labels.isfinite().all())


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (generation_of(0), {"ratio": 1.0}, r"ratio=1.0: expected the probability .* \[0, 1\)"),
        (generation_of(0), {"ratio": -0.1}, "ratio=-0.1"),
        (generation_of(0), {"ratio": math.nan}, "ratio=nan"),
        (generation_of(0)[:0], {}, "ratio=0.5 without an accepted hard image"),
        (replace(generation_of(0), accepted=torch.zeros(20, dtype=torch.bool)), {}, "without an accepted hard image"),
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
    pool = Replay()
    batches = mixed(real, pool)
    with pytest.raises(ValueError, match="no hard images to draw from"):
        batches.next()
    pool.add(generation_of(0, size=5))
    with pytest.raises(ValueError, match=r"= \(1, 5, 5\)"):
        batches.next()


def test_training_on_soft_labels_of_hard_rows(real: ImageSet) -> None:
    """The NaN of the real rows stays out of a loss over the hard ones, whose value is known."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    torch.nn.init.zeros_(model[1].weight)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([2.0, 0.0, 0.0]))
    batch = mixed(real, generation_of(0)).next()
    assert 0 < int(batch.hard.sum()) < len(batch)
    logits: Tensor = model(batch.images)
    loss = torch.nn.functional.cross_entropy(logits[batch.hard], batch.soft_labels[batch.hard])
    loss.backward()
    # soft labels are 0.8 for the class and 0.1 for each other one
    target = 0.7 * torch.nn.functional.one_hot(batch.labels[batch.hard], 3).float().mean(0) + 0.1
    predicted = torch.tensor([2.0, 0.0, 0.0]).softmax(0)
    assert loss.item() == pytest.approx(float(-(target * predicted.log()).sum()), rel=1e-5)
    assert torch.allclose(model[1].bias.grad, predicted - target, atol=1e-6)
