"""Shards of hard images: what is read is what was written; sheets; invalid input."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hard_aug.data import HardImages, Replay, ShardWriter, read_shards, save_sheets
from tests.helpers.shard_parts import CLASSES, LAYOUTS, ROWS, hard, same, tree, writer


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_read_is_what_was_written(tmp_path: Path, layout: str, channels: int) -> None:
    store = writer(tmp_path, layout)
    batches = [hard(index, channels=channels) for index in range(2)]
    for index in (1, 0):  # in any order
        store.write(index, batches[index])
    found = read_shards(tmp_path)
    everything = HardImages.cat(batches)
    assert same(found.images, everything[everything.accepted])
    assert found.classes == CLASSES
    assert found.identity == {"steps": 3, "search": {"name": "a"}}
    if layout == "webdataset":
        assert same(read_shards(tmp_path, accepted_only=False, verify=False).images, everything)
    else:
        with pytest.raises(ValueError, match="2 rejected images, which the layout 'image_folder' does not keep"):
            read_shards(tmp_path, accepted_only=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_accepted_and_nothing_at_all(tmp_path: Path, layout: str) -> None:
    store = writer(tmp_path, layout)
    empty = store.finish()
    assert (empty.images, empty.accept_rate, empty.scores["all"]["before"]) == (0, None, None)
    with pytest.raises(FileNotFoundError, match="no finished shard"):
        read_shards(tmp_path)
    broken = replace(hard(1), accepted=torch.zeros(ROWS, dtype=torch.bool), scores_after=torch.full((ROWS,), math.nan))
    broken.soft_labels[2] = math.nan
    store.write(0, hard(0, rows=0))
    store.write(1, broken)
    found = store.finish()
    assert (found.images, found.accepted, found.scores["all"]["after"]) == (ROWS, 0, None)
    assert read_shards(tmp_path).images.images.shape == (0, 3, 5, 5)
    if layout == "webdataset":
        kept = read_shards(tmp_path, accepted_only=False).images
        assert bool(kept.scores_after.isnan().all())
        assert torch.equal(kept.soft_labels.isnan().any(1), torch.arange(ROWS) == 2)
    assert save_sheets(tmp_path, tmp_path / "sheets") == []


def test_sheets(tmp_path: Path) -> None:
    store = writer(tmp_path / "store")
    for index in range(3):
        store.write(index, replace(hard(index), labels=torch.tensor([0, 0, 0, 2, 2, 2])))
    paths = save_sheets(tmp_path / "store", tmp_path / "sheets", columns=2, most=4)
    assert [path.name for path in paths] == ["00_zebra.png", "02_T-shirt_ top.png"]
    with Image.open(paths[0]) as sheet:
        assert sheet.size == (2 * 7 + 2, 2 * 7 + 2)  # pictures of 5 pixels, a frame of 2
        pixels = torch.from_numpy(np.array(sheet)).permute(2, 0, 1)
    assert torch.equal(pixels[:, 2:7, 2:7], hard(0).images[0])
    assert torch.equal(pixels[:, 2:7, 9:14], hard(0).images[2])
    grey = save_sheets(hard(0, channels=1), tmp_path / "grey")
    assert all(path.name == f"{path.name[:2]}_{int(path.name[:2])}.png" for path in grey)
    with pytest.raises(ValueError, match="2 classes for images of 3"):
        save_sheets(hard(0), tmp_path, classes=("a", "b"))
    with pytest.raises(ValueError, match="columns=0"):
        save_sheets(hard(0), tmp_path, columns=0)


def test_invalid_calls_raise(tmp_path: Path) -> None:
    store = writer(tmp_path)
    for index in (-1, 10**6, 0.5, True):
        with pytest.raises(ValueError, match="expected an integer from 0 to 999999"):
            store.is_done(index)
        with pytest.raises(ValueError, match="expected an integer from 0 to 999999"):
            store.write(index, hard(0))
    with pytest.raises(TypeError, match="JSON"):
        store.write(0, hard(0), extra={"x": torch.ones(1)})
    with pytest.raises(ValueError, match="soft_labels of 2 columns: expected one for each of 3"):
        store.write(0, replace(hard(0), soft_labels=torch.full((ROWS, 2), 0.5), labels=torch.zeros(ROWS).long()))
    with pytest.raises(ValueError, match="100001 images in a shard"):
        store.write(0, hard(0, rows=100_001, channels=1, size=1))
    with pytest.raises(ValueError, match="layout='zip'"):
        writer(tmp_path, "zip")
    with pytest.raises(ValueError, match="all different"):
        ShardWriter(tmp_path, identity={}, classes=("a", "a"))
    with pytest.raises(TypeError, match="JSON"):
        ShardWriter(tmp_path, identity={"x": torch.ones(1)}, classes=CLASSES)
    assert tree(tmp_path) == {}
    store.write(0, hard(0))
    store.write(1, hard(1, size=6))
    with pytest.raises(ValueError, match=r"images of \(3, 6, 6\), others \(3, 5, 5\)"):
        read_shards(tmp_path)


ODD = ("<b>&\"'", "$x$ [1]", "two\nlines, é 猫", "-dash", ".dot", "", "\udcff", "a/b\\c", "con", "é")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_classes_with_any_character(tmp_path: Path, layout: str) -> None:
    rows = len(ODD)
    images = replace(
        hard(0, rows=rows),
        labels=torch.arange(rows),
        soft_labels=torch.eye(rows),
        accepted=torch.ones(rows, dtype=torch.bool),
    )
    store = ShardWriter(tmp_path / "a=[1] é", identity={"odd": list(ODD)}, classes=ODD, layout=layout)
    store.write(0, images, extra={ODD[0]: 1})
    index = store.finish()
    found = read_shards(tmp_path / "a=[1] é")
    assert found.classes == ODD
    assert same(found.images, images)
    assert index.classes.keys() == set(ODD)
    sheets = save_sheets(tmp_path / "a=[1] é", tmp_path / "sheets")
    assert len({path.name for path in sheets}) == rows
    assert all(path.name.isascii() and path.is_file() for path in sheets)
    with (tmp_path / "a=[1] é" / "index.csv").open(newline="", encoding="utf-8") as table:
        named = [row["class"] for row in csv.DictReader(table)]
    assert named == [name.replace("\udcff", "\\udcff") for name in ODD]


def test_integers_of_numpy(tmp_path: Path) -> None:
    """As indices of shards, in the identity and in extras, and as settings of a pool."""
    store = ShardWriter(tmp_path, identity={"steps": np.int64(3), "scale": np.float32(0.5)}, classes=CLASSES)
    for index in np.arange(2):
        store.write(index, hard(int(index)), extra={"evaluations": np.int64(7)})
        assert store.is_done(index)
    assert store.finish().extra == {"evaluations": 14}
    assert ShardWriter(tmp_path, identity={"steps": 3, "scale": 0.5}, classes=CLASSES).is_done(0)
    pool = Replay(capacity=np.int64(9), seed=np.int64(3))
    pool.add(read_shards(tmp_path).images)
    plain = Replay(capacity=9, seed=3)
    plain.add(read_shards(tmp_path).images)
    assert len(pool) == len(plain) == 8
    assert pool[np.int64(2)][1] == plain[2][1]
