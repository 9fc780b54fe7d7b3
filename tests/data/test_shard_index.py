"""The index of a folder of shards: a line for each image, and the totals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from hard_aug.data import HardImages, read_shards
from tests.helpers.shard_parts import CLASSES, ROWS, SHARDS, hard, tree, write_all, writer


def test_the_index(tmp_path: Path) -> None:
    write_all(tmp_path)
    store = writer(tmp_path)
    found = store.finish()
    everything = HardImages.cat([hard(index) for index in range(SHARDS)])
    kept = everything[everything.accepted]
    assert found.shards == (0, 1, 2)
    assert (found.images, found.accepted) == (18, 12)
    assert found.accept_rate == pytest.approx(12 / 18)
    assert found.scores["all"]["before"] == pytest.approx(float(everything.scores_before.mean()))
    assert found.scores["accepted"]["after"] == pytest.approx(float(kept.scores_after.mean()))
    assert found.extra == {"evaluations.unet": 33}
    for label, name in enumerate(CLASSES):
        counts = {"images": int((everything.labels == label).sum()), "accepted": int((kept.labels == label).sum())}
        assert found.classes[name] == counts
    stored = json.loads((tmp_path / "index.json").read_text())
    assert stored["shards"] == [0, 1, 2]
    assert stored["identity"] == {"steps": 3, "search": {"name": "a"}}
    with (tmp_path / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == [f"{i:06d}{j:05d}" for i in range(SHARDS) for j in range(ROWS)]
    assert [int(row["seed"]) for row in rows] == everything.seeds.tolist()
    assert [float(row["score_after"]) for row in rows] == everything.scores_after.tolist()
    assert [row["class"] for row in rows] == [CLASSES[label] for label in everything.labels]
    for row in rows:
        assert row["file"] == f"{'shard' if row['accepted'] == '1' else 'rejected'}-{int(row['shard']):06d}.tar"
    for path in tmp_path.glob("shard-000001.*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"the index lists the shards \[1\]"):
        read_shards(tmp_path)


def test_the_files_of_the_index_exist(tmp_path: Path) -> None:
    write_all(tmp_path, "image_folder")
    writer(tmp_path, "image_folder").finish()
    with (tmp_path / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["file"]) for row in rows] == [row["accepted"] == "1" for row in rows]
    assert {row["file"] for row in rows if row["file"]} == {n for n in tree(tmp_path) if n.endswith(".png")}
