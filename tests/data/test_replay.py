"""The pool of hard images of several generations, and when new ones are due."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from hard_aug.data import HardImages, Refresh, Replay
from tests.helpers.hard_parts import generation_of, saved


def rows_of(pool: Replay) -> list[int]:
    assert pool.images is not None
    return pool.images.seeds.tolist()


@pytest.mark.parametrize("old_fraction", [0.0, 0.3, 1.0])
def test_the_fraction_of_older_generations(old_fraction: float) -> None:
    pool = Replay(old_fraction=old_fraction)
    draws = torch.Generator().manual_seed(0)
    for generation, rows in enumerate((30, 60, 10)):
        pool.add(generation_of(generation, rows))
        drawn = pool.draw(20_000, draws)
        assert 0 <= int(drawn.min()) <= int(drawn.max()) < len(pool)
        fraction = float((drawn < pool.older).float().mean())
        assert fraction == pytest.approx(old_fraction if generation else 0, abs=0.02)
    counts = torch.bincount(drawn, minlength=100).float()
    for rows in (counts[:90], counts[90:]):  # uniform within each
        assert float((rows - rows.mean()).abs().max()) <= 6 * math.sqrt(float(rows.mean()))
    assert (pool.generations, pool.older, len(pool)) == (3, 90, 100)


def test_the_newest_is_whole_and_old_ones_stay() -> None:
    pool, fifo = Replay(capacity=50, seed=1), Replay(capacity=50, eviction="fifo")
    for generation in range(6):
        for each in (pool, fifo):
            each.add(generation_of(generation))
            assert len(each) == min(50, 20 * (generation + 1))
            assert rows_of(each)[-20:] == list(range(1000 * generation, 1000 * generation + 20))
    assert rows_of(fifo)[:30] == [*range(3010, 3020), *range(4000, 4020)]
    ages = [row // 1000 for row in rows_of(pool)[:30]]
    assert ages == sorted(ages)
    assert min(ages) < 3 < max(ages)
    assert len(set(rows_of(pool))) == 50
    other = Replay(capacity=50, seed=2)
    for generation in range(6):
        other.add(generation_of(generation))
    assert rows_of(other) != rows_of(pool)


def test_the_state_of_a_pool() -> None:
    pool = Replay(capacity=50, seed=1)
    for generation in range(3):
        pool.add(generation_of(generation))
    resumed = Replay(capacity=50, seed=9)
    resumed.load_state_dict(saved(pool.state_dict()))
    for each in (pool, resumed):
        each.add(generation_of(3))
    assert rows_of(pool) == rows_of(resumed)
    assert (pool.older, pool.generations) == (resumed.older, resumed.generations) == (30, 4)
    empty = Replay()
    empty.load_state_dict(saved(Replay().state_dict()))
    assert len(empty) == 0


def test_a_generation_without_accepted_images_is_none(caplog: pytest.LogCaptureFixture) -> None:
    pool = Replay()
    pool.add(generation_of(0))
    pool.add(replace(generation_of(1), accepted=torch.zeros(20, dtype=torch.bool)))
    assert (len(pool), pool.generations, pool.older) == (20, 1, 0)
    assert "none of 20 new hard images is accepted" in caplog.text


def test_a_data_loader_draws_from_the_pool() -> None:
    pool = Replay(old_fraction=0.25)
    for generation in range(2):
        pool.add(generation_of(generation))
    rows = pool.draw(2000, torch.Generator().manual_seed(0))
    images, labels = (torch.cat(c) for c in zip(*DataLoader(pool, 100, sampler=rows.tolist()), strict=True))
    old = (images * 255).round().flatten(1)[:, 0] == 200
    assert float(old.float().mean()) == pytest.approx(0.25, abs=0.04)
    assert torch.equal(labels, rows % 20 % 3)
    assert repr(pool) == "Replay(capacity=None, old_fraction=0.25, eviction='random', seed=0)"
    with pytest.raises(IndexError, match="empty"):
        Replay()[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Replay(capacity=0), "capacity=0"),
        (lambda: Replay(old_fraction=1.5), "old_fraction=1.5"),
        (lambda: Replay(old_fraction=math.nan), "old_fraction=nan"),
        (lambda: Replay(eviction="lifo"), "eviction='lifo'"),  # type: ignore[arg-type]
        (lambda: Replay(capacity=19).add(generation_of(0)), "20 new images: the pool holds 19; set capacity=20"),
        (lambda: Replay().draw(3, torch.Generator()), "no hard images to draw from"),
        (lambda: Refresh(every=2, patience=2), "every=2 and patience=2"),
        (lambda: Replay(capacity=2.5), "capacity=2.5: expected an integer"),  # type: ignore[arg-type]
        (lambda: Refresh(every=1.5), "every=1.5: expected an integer"),  # type: ignore[arg-type]
        (lambda: Refresh(every=0), "every=0: expected an integer >= 1"),
        (lambda: Refresh(patience=0), "patience=0"),
        (lambda: Refresh(min_delta=-1.0), "min_delta=-1.0"),
        (lambda: Refresh(min_delta=math.nan), "min_delta=nan"),
        (lambda: Refresh(mode="best"), "mode='best'"),  # type: ignore[arg-type]
        (lambda: Refresh().is_due(-1), "epoch=-1"),
        (lambda: Refresh(patience=1).is_due(1), "requires a value at each epoch"),
    ],
)
def test_invalid_pools_and_times_raise(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("other", [generation_of(1, size=5), generation_of(1, channels=3), generation_of(1, classes=4)])
def test_a_pool_holds_images_of_one_kind(other: HardImages) -> None:
    pool = Replay()
    pool.add(generation_of(0))
    with pytest.raises(ValueError, match=r"the pool has 1 x 4 x 4 and 3 classes"):
        pool.add(other)
    assert len(pool) == 20


def times(refresh: Refresh, values: list[float]) -> list[int]:
    return [epoch for epoch, value in enumerate(values, 1) if refresh.is_due(epoch, value)]


def test_when_new_ones_are_due() -> None:
    rising, flat = [0.1 * i for i in range(9)], [0.5] * 9
    assert times(Refresh(), flat) == []
    assert times(Refresh(every=3), rising) == [3, 6, 9]
    assert Refresh(every=1).is_due(0) is False
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
    found += [epoch for epoch in range(stop + 1, 9) if second.is_due(epoch, values[epoch - 1])]
    assert found == times(Refresh(patience=2), values) == [5, 8]
