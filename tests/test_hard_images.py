"""Mixing hard images with real ones, the pool of generations, and the times of new ones."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.data import Part
from experiments.hard_images import Mixed, MixedPart, Refresh, Replay
from experiments.shards import HardImages, ShardWriter, read
from experiments.training import Batches

CLASSES = ("a", "b", "c")


def hard(generation: int, rows: int = 20, channels: int = 1, size: int = 4, classes: int = 3) -> HardImages:
    """Every pixel of a generation has the same value, `200 + generation`."""
    labels = torch.arange(rows) % classes
    return HardImages(
        images=torch.full((rows, channels, size, size), 200 + generation, dtype=torch.uint8),
        labels=labels,
        soft_labels=0.7 * torch.nn.functional.one_hot(labels, classes) + 0.3 / classes,
        seeds=torch.arange(rows) + 1000 * generation,
        scores_before=torch.zeros(rows),
        scores_after=torch.ones(rows),
        accepted=torch.ones(rows, dtype=torch.bool),
        source=torch.full((rows,), -1),
    )


@pytest.fixture
def real() -> Part:
    """Images in [0, 0.5), so that no hard image is among them."""
    return Part(0.5 * torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 3)


def mixed(real: Part, images: Any, **settings: Any) -> Mixed:
    return Mixed(real, images, **{"ratio": 0.5, "batch_size": 10, "classes": CLASSES, "seed": 3, **settings})


def equal(a: MixedPart, b: MixedPart) -> bool:
    both = [(getattr(a, n), getattr(b, n)) for n in ("images", "labels", "hard", "soft_labels")]
    return all(torch.equal(x.nan_to_num(-1), y.nan_to_num(-1)) for x, y in both)


def rows_of(pool: Replay) -> list[int]:
    assert pool.images is not None
    return pool.images.seeds.tolist()


def saved(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_the_ratio(real: Part, ratio: float) -> None:
    before = real.images.clone(), real.labels.clone()
    batches = mixed(real, hard(0), ratio=ratio)
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


def test_without_hard_images_nothing_changes(real: Part) -> None:
    plain = Batches(real, 10, 3)
    for images in (Replay(), hard(0), hard(0)[:0]):
        batches = mixed(real, images, ratio=0)
        plain.load_state_dict(Batches(real, 10, 3).state_dict())
        for _ in range(12):
            expected, found = plain.next(), batches.next()
            assert torch.equal(found.images, expected.images)
            assert torch.equal(found.labels, expected.labels)
            assert found.soft_labels.shape == (10, 3)
            assert not bool(found.hard.any())


def test_real_rows_are_those_of_plain_batches(real: Part) -> None:
    plain, batches = Batches(real, 10, 3), mixed(real, hard(0))
    for _ in range(12):
        expected, found = plain.next(), batches.next()
        assert torch.equal(found.images[~found.hard], expected.images[~found.hard])
        assert torch.equal(found.labels[~found.hard], expected.labels[~found.hard])


@pytest.mark.parametrize("kind", ["fixed", "replay"])
def test_resumed_bit_for_bit(real: Part, kind: str) -> None:
    def images() -> Any:
        if kind == "fixed":
            return hard(0)
        pool = Replay(capacity=30, replay=0.3)
        pool.add(hard(0))
        return pool

    whole = mixed(real, images())
    for _ in range(7):
        whole.next()
    if kind == "replay":
        whole.pool.add(hard(1))
    state = saved(whole.state_dict())
    assert ("pool" in state) == (kind == "replay")
    resumed = mixed(real, images() if kind == "fixed" else Replay(capacity=30, replay=0.3))
    resumed.load_state_dict(state)
    for step in range(12):
        if kind == "replay" and step == 5:
            for batches in (whole, resumed):
                batches.pool.add(hard(2))
        assert equal(whole.next(), resumed.next())
    assert not equal(mixed(real, hard(0), seed=4).next(), mixed(real, hard(0), seed=5).next())


def test_a_state_of_other_images_is_refused(real: Part) -> None:
    state = mixed(real, hard(0)).state_dict()
    other = replace(hard(0), labels=hard(0).labels.flip(0))
    for images in (hard(1), other, Replay()):
        with pytest.raises(ValueError, match="a state with the hard images"):
            mixed(real, images).load_state_dict(state)
    pool = Replay()
    with pytest.raises(ValueError, match="of a Replay"):
        mixed(real, hard(0)).load_state_dict(mixed(real, pool).state_dict())


def test_rejected_images_are_never_drawn(real: Part) -> None:
    images = hard(0)
    images.images[::2] = 255
    images = replace(images, accepted=torch.arange(20) % 2 == 1)
    batches = mixed(real, images, ratio=0.9)
    drawn = torch.cat([part.images[part.hard] for part in (batches.next() for _ in range(30))])
    assert torch.equal(drawn, torch.full_like(drawn, 200 / 255))


def test_a_store_has_to_have_the_classes_of_the_data(real: Part, tmp_path: Path) -> None:
    ShardWriter(tmp_path, identity={}, classes=CLASSES).write(0, hard(0))
    assert bool(mixed(real, read(tmp_path)).next().hard.any())
    with pytest.raises(ValueError, match="labels would mean other things"):
        mixed(real, read(tmp_path), classes=("b", "a", "c"))


def test_parts(real: Part) -> None:
    part = mixed(real, hard(0)).next()
    chosen = part[part.hard].to(torch.device("cpu"))
    assert isinstance(chosen, MixedPart)
    assert len(chosen) == int(part.hard.sum()) > 0
    assert bool(chosen.soft_labels.isfinite().all())


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (hard(0), {"ratio": 1.0}, r"ratio=1.0: wanted the probability .* \[0, 1\)"),
        (hard(0), {"ratio": -0.1}, "ratio=-0.1"),
        (hard(0), {"ratio": math.nan}, "ratio=nan"),
        (hard(0)[:0], {}, "ratio=0.5 without an accepted hard image"),
        (replace(hard(0), accepted=torch.zeros(20, dtype=torch.bool)), {}, "without an accepted hard image"),
        (hard(0, size=5), {}, r"hard images of \(C, H, W\) = \(1, 5, 5\): the real ones are \(1, 4, 4\)"),
        (hard(0, channels=3), {}, r"= \(3, 4, 4\)"),
        (hard(0, classes=4), {}, "hard images of 4 classes: the real data has 3"),
        (hard(0), {"classes": ("a", "b")}, "real labels up to 2: wanted less than 2"),
        (hard(0), {"batch_size": 51}, "batch_size=51"),
    ],
)
def test_bad_settings(real: Part, images: HardImages, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixed(real, images, **settings)


def test_a_pool_that_is_filled_later(real: Part) -> None:
    pool = Replay()
    batches = mixed(real, pool)
    with pytest.raises(ValueError, match="no hard images to draw from"):
        batches.next()
    pool.add(hard(0, size=5))
    with pytest.raises(ValueError, match=r"= \(1, 5, 5\)"):
        batches.next()


@pytest.mark.parametrize("replay", [0.0, 0.3, 1.0])
def test_the_share_of_older_generations(replay: float) -> None:
    pool = Replay(replay=replay)
    draws = torch.Generator().manual_seed(0)
    for generation, rows in enumerate((30, 60, 10)):
        pool.add(hard(generation, rows))
        drawn = pool.draw(20_000, draws)
        assert 0 <= int(drawn.min()) <= int(drawn.max()) < len(pool)
        share = float((drawn < pool.older).float().mean())
        assert share == pytest.approx(replay if generation else 0, abs=0.02)
    counts = torch.bincount(drawn, minlength=100).float()
    for rows in (counts[:90], counts[90:]):  # uniform within each
        assert float((rows - rows.mean()).abs().max()) <= 6 * math.sqrt(float(rows.mean()))
    assert (pool.generations, pool.older, len(pool)) == (3, 90, 100)


def test_the_newest_is_whole_and_old_ones_stay() -> None:
    pool, fifo = Replay(capacity=50, seed=1), Replay(capacity=50, eviction="fifo")
    for generation in range(6):
        for each in (pool, fifo):
            each.add(hard(generation))
            assert len(each) == min(50, 20 * (generation + 1))
            assert rows_of(each)[-20:] == list(range(1000 * generation, 1000 * generation + 20))
    assert rows_of(fifo)[:30] == [*range(3010, 3020), *range(4000, 4020)]
    ages = [row // 1000 for row in rows_of(pool)[:30]]
    assert ages == sorted(ages)
    assert min(ages) < 3 < max(ages)
    assert len(set(rows_of(pool))) == 50
    other = Replay(capacity=50, seed=2)
    for generation in range(6):
        other.add(hard(generation))
    assert rows_of(other) != rows_of(pool)


def test_the_state_of_a_pool() -> None:
    pool = Replay(capacity=50, seed=1)
    for generation in range(3):
        pool.add(hard(generation))
    resumed = Replay(capacity=50, seed=9)
    resumed.load_state_dict(saved(pool.state_dict()))
    for each in (pool, resumed):
        each.add(hard(3))
    assert rows_of(pool) == rows_of(resumed)
    assert (pool.older, pool.generations) == (resumed.older, resumed.generations) == (30, 4)
    empty = Replay()
    empty.load_state_dict(saved(Replay().state_dict()))
    assert len(empty) == 0


def test_a_generation_without_accepted_images_is_none(caplog: pytest.LogCaptureFixture) -> None:
    pool = Replay()
    pool.add(hard(0))
    pool.add(replace(hard(1), accepted=torch.zeros(20, dtype=torch.bool)))
    assert (len(pool), pool.generations, pool.older) == (20, 1, 0)
    assert "none of 20 new hard images is accepted" in caplog.text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Replay(capacity=0), "capacity=0"),
        (lambda: Replay(replay=1.5), "replay=1.5"),
        (lambda: Replay(replay=math.nan), "replay=nan"),
        (lambda: Replay(eviction="lifo"), "eviction='lifo'"),  # type: ignore[arg-type]
        (lambda: Replay(capacity=19).add(hard(0)), "20 new images: the pool holds 19; give capacity=20"),
        (lambda: Replay().draw(3, torch.Generator()), "no hard images to draw from"),
        (lambda: Refresh(every=2, patience=2), "every=2 and patience=2"),
        (lambda: Refresh(every=0), "every=0: wanted at least 1"),
        (lambda: Refresh(patience=0), "patience=0"),
        (lambda: Refresh(min_delta=-1.0), "min_delta=-1.0"),
        (lambda: Refresh(min_delta=math.nan), "min_delta=nan"),
        (lambda: Refresh(mode="best"), "mode='best'"),  # type: ignore[arg-type]
        (lambda: Refresh().due(-1), "epoch=-1"),
        (lambda: Refresh(patience=1).due(1), "wants a value at each epoch"),
    ],
)
def test_bad_pools_and_times(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("other", [hard(1, size=5), hard(1, channels=3), hard(1, classes=4)])
def test_a_pool_holds_images_of_one_kind(other: HardImages) -> None:
    pool = Replay()
    pool.add(hard(0))
    with pytest.raises(ValueError, match=r"the pool has 1 x 4 x 4 and 3 classes"):
        pool.add(other)
    assert len(pool) == 20


def times(refresh: Refresh, values: list[float]) -> list[int]:
    return [epoch for epoch, value in enumerate(values, 1) if refresh.due(epoch, value)]


def test_when_new_ones_are_due() -> None:
    rising, flat = [0.1 * i for i in range(9)], [0.5] * 9
    assert times(Refresh(), flat) == []
    assert times(Refresh(every=3), rising) == [3, 6, 9]
    assert Refresh(every=1).due(0) is False
    assert times(Refresh(patience=2), rising) == []
    assert times(Refresh(patience=2, min_delta=0.15), rising) == []  # each second value is better by 0.2
    assert times(Refresh(patience=1, min_delta=0.15), rising) == [2, 4, 6, 8]
    assert times(Refresh(patience=3), flat) == [4, 7]
    assert times(Refresh(patience=2, mode="min"), rising) == [3, 5, 7, 9]
    assert times(Refresh(patience=2), [0.5, 0.4, 0.6, 0.5, 0.5, 0.7]) == [5]
    assert times(Refresh(patience=2), [math.nan, math.nan, 0.5, math.nan, 0.6, 0.6, 0.6]) == [2, 7]


@pytest.mark.parametrize("stop", range(8))
def test_the_times_of_a_resumed_run(stop: int) -> None:
    values = [0.5, 0.4, 0.6, 0.5, 0.5, 0.7, 0.7, 0.7]
    first, second = Refresh(patience=2), Refresh(patience=2)
    found = times(first, values[:stop])
    second.load_state_dict(saved(first.state_dict()))
    found += [epoch for epoch in range(stop + 1, 9) if second.due(epoch, values[epoch - 1])]
    assert found == times(Refresh(patience=2), values) == [5, 8]


def test_training_on_soft_labels_of_hard_rows(real: Part) -> None:
    """No NaN of the real rows reaches a loss that takes the hard ones."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    part = mixed(real, hard(0)).next()
    logits: Tensor = model(part.images)
    loss = torch.nn.functional.cross_entropy(logits[part.hard], part.soft_labels[part.hard])
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
