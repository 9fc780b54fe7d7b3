"""The store of hard images: what is written is what is read, by this and other readers; bad input."""

from __future__ import annotations

import csv
import io
import json
import math
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from shard_parts import CLASSES, LAYOUTS, ROWS, SHARDS, hard, same, tree, write_all, writer
from torchvision.datasets import ImageFolder

from experiments import shard_files
from experiments.shards import HardImages, ShardWriter, read, sheets


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_read_is_what_was_written(tmp_path: Path, layout: str, channels: int) -> None:
    store = writer(tmp_path, layout)
    batches = [hard(index, channels=channels) for index in range(2)]
    for index in (1, 0):  # in any order
        store.write(index, batches[index])
    found = read(tmp_path)
    everything = HardImages.cat(batches)
    assert same(found.images, everything[everything.accepted])
    assert found.classes == CLASSES
    assert found.identity == {"steps": 3, "solver": {"name": "a"}}
    if layout == "webdataset":
        assert same(read(tmp_path, accepted_only=False, verify=False).images, everything)
    else:
        with pytest.raises(ValueError, match="2 rejected images, which the layout 'image_folder' does not keep"):
            read(tmp_path, accepted_only=False)


def test_any_reader_of_archives_reads_them(tmp_path: Path) -> None:
    writer(tmp_path).write(7, hard(7))
    images, content = hard(7), {}
    for name, rows in (("shard", images.accepted), ("rejected", ~images.accepted)):
        keys = [f"000007{row:05d}" for row in rows.nonzero().flatten().tolist()]
        assert keys
        with tarfile.open(tmp_path / f"{name}-000007.tar") as tar:
            members = tar.getmembers()
            assert [m.name for m in members] == [f"{key}.{e}" for key in keys for e in ("png", "cls", "json")]
            assert all(m.mtime == m.uid == m.gid == 0 and not m.uname for m in members)
            content |= {m.name: tar.extractfile(m).read() for m in members}  # type: ignore[union-attr]
    for row in range(ROWS):
        key = f"000007{row:05d}"
        pixels = np.array(Image.open(io.BytesIO(content[f"{key}.png"])))
        assert np.array_equal(pixels, images.images[row].permute(1, 2, 0).numpy())
        assert int(content[f"{key}.cls"].decode("ascii")) == int(images.labels[row])
        about = json.loads(content[f"{key}.json"])
        assert torch.equal(torch.tensor(about["soft_labels"]), images.soft_labels[row])
        assert about["seed"] == int(images.seeds[row])
        assert about["accepted"] is bool(images.accepted[row])
        assert about["source"] == row - 1


def test_webdataset_reads_them(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    write_all(tmp_path)
    pattern = str(tmp_path / f"shard-{{000000..{SHARDS - 1:06d}}}.tar")
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("torchrgb8"))
    everything = HardImages.cat([hard(index) for index in range(SHARDS)])
    everything = everything[everything.accepted]  # it sees no others
    assert [sample["cls"] for sample in samples] == everything.labels.tolist()
    assert all(torch.equal(torch.as_tensor(s["png"]), i) for s, i in zip(samples, everything.images, strict=True))
    assert [sample["json"]["seed"] for sample in samples] == everything.seeds.tolist()


def test_image_folder_reads_them(tmp_path: Path) -> None:
    write_all(tmp_path, "image_folder")
    index = writer(tmp_path, "image_folder").finish()
    folder = ImageFolder(str(tmp_path / "images"))
    assert folder.classes == ["00_zebra", "01_apple_pear", "02_T-shirt_ top"]
    kept = [batch[batch.accepted] for batch in map(hard, range(SHARDS))]
    expected = {
        bytes(i.permute(1, 2, 0).numpy()): int(x) for b in kept for i, x in zip(b.images, b.labels, strict=True)
    }
    assert {bytes(np.array(image)): label for image, label in folder} == expected
    assert len(folder) == len(expected) == index.accepted == 12


def test_many_classes_keep_their_order() -> None:
    names = shard_files.class_folders([f"{'é.. ' * 40}{label % 7}" for label in range(1000)])
    assert sorted(names) == names
    assert len(set(names)) == 1000
    assert max(map(len, names)) <= 64


def test_a_folder_of_another_configuration(tmp_path: Path) -> None:
    write_all(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"\(solver\.name: 'a' there, 'b' here; steps: 3 there, 4 here\)\. Give"):
        writer(tmp_path, steps=4, solver={"name": "b"})
    with pytest.raises(ValueError, match="extra: nothing there, None here"):
        writer(tmp_path, extra=None)
    with pytest.raises(ValueError, match="layout: 'webdataset' there, 'image_folder' here"):
        writer(tmp_path, "image_folder")
    with pytest.raises(ValueError, match=r"classes\.1: 'apple/pear' there, 'pear' here"):
        ShardWriter(tmp_path, identity={"steps": 3, "solver": {"name": "a"}}, classes=("zebra", "pear", CLASSES[2]))
    with pytest.raises(ValueError, match=r"and 92 more\)"):
        writer(tmp_path, **{f"x{i}": i for i in range(100)})
    assert tree(tmp_path) == before


def test_two_configurations_begun_at_once(tmp_path: Path) -> None:
    first, second = writer(tmp_path), writer(tmp_path, steps=4)
    first.write(0, hard(0))
    second.write(1, hard(1))
    for call in (lambda: first.done(1), lambda: second.done(0), first.finish, lambda: read(tmp_path)):
        with pytest.raises(ValueError, match="another configuration"):
            call()


def test_equal_settings_are_equal_after_json(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"range": (1, 2), "limit": math.nan, 3: "three"}
    ShardWriter(tmp_path, identity=settings, classes=CLASSES).write(0, hard(0))
    assert ShardWriter(tmp_path, identity=settings, classes=CLASSES).done(0)


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
    assert stored["identity"] == {"steps": 3, "solver": {"name": "a"}}
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
        read(tmp_path)


def test_the_files_of_the_index_are_there(tmp_path: Path) -> None:
    write_all(tmp_path, "image_folder")
    writer(tmp_path, "image_folder").finish()
    with (tmp_path / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["file"]) for row in rows] == [row["accepted"] == "1" for row in rows]
    assert {row["file"] for row in rows if row["file"]} == {n for n in tree(tmp_path) if n.endswith(".png")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_accepted_and_nothing_at_all(tmp_path: Path, layout: str) -> None:
    store = writer(tmp_path, layout)
    empty = store.finish()
    assert (empty.images, empty.accept_rate, empty.scores["all"]["before"]) == (0, None, None)
    with pytest.raises(FileNotFoundError, match="no finished shard"):
        read(tmp_path)
    broken = replace(hard(1), accepted=torch.zeros(ROWS, dtype=torch.bool), scores_after=torch.full((ROWS,), math.nan))
    broken.soft_labels[2] = math.nan
    store.write(0, hard(0, rows=0))
    store.write(1, broken)
    found = store.finish()
    assert (found.images, found.accepted, found.scores["all"]["after"]) == (ROWS, 0, None)
    assert read(tmp_path).images.images.shape == (0, 3, 5, 5)
    if layout == "webdataset":
        kept = read(tmp_path, accepted_only=False).images
        assert bool(kept.scores_after.isnan().all())
        assert torch.equal(kept.soft_labels.isnan().any(1), torch.arange(ROWS) == 2)
    assert sheets(tmp_path, tmp_path / "sheets") == []


def test_sheets(tmp_path: Path) -> None:
    store = writer(tmp_path / "store")
    for index in range(3):
        store.write(index, replace(hard(index), labels=torch.tensor([0, 0, 0, 2, 2, 2])))
    paths = sheets(tmp_path / "store", tmp_path / "sheets", columns=2, most=4)
    assert [path.name for path in paths] == ["00_zebra.png", "02_T-shirt_ top.png"]
    with Image.open(paths[0]) as sheet:
        assert sheet.size == (2 * 7 + 2, 2 * 7 + 2)  # pictures of 5 pixels, a frame of 2
        pixels = torch.from_numpy(np.array(sheet)).permute(2, 0, 1)
    assert torch.equal(pixels[:, 2:7, 2:7], hard(0).images[0])
    assert torch.equal(pixels[:, 2:7, 9:14], hard(0).images[2])
    grey = sheets(hard(0, channels=1), tmp_path / "grey")
    assert all(path.name == f"{path.name[:2]}_{int(path.name[:2])}.png" for path in grey)
    with pytest.raises(ValueError, match="2 classes for images of 3"):
        sheets(hard(0), tmp_path, classes=("a", "b"))
    with pytest.raises(ValueError, match="columns=0"):
        sheets(hard(0), tmp_path, columns=0)


def test_bad_images() -> None:
    good = hard(0)
    changed: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
        ({"images": good.images.float()}, TypeError, r"images is torch.float32: wanted torch.uint8"),
        ({"labels": good.labels.int()}, TypeError, "labels is torch.int32"),
        ({"images": good.images[:, 0]}, ValueError, "images has the shape"),
        ({"images": good.images[:, :2]}, ValueError, "images of 2 channels"),
        ({"seeds": good.seeds[:-1]}, ValueError, r"seeds has the shape \(5,\): wanted 1 axes, 6 rows"),
        ({"labels": good.labels + 1}, ValueError, "labels from 1 to 3: wanted 0 to 2"),
        ({"labels": good.labels - 1}, ValueError, "labels from -1"),
        ({"soft_labels": good.soft_labels.log()}, ValueError, "no probabilities"),
        ({"soft_labels": good.soft_labels * math.nan}, ValueError, "no probabilities"),
        ({"scores_after": good.scores_after * math.inf}, ValueError, "not finite"),
    )
    for settings, kind, message in changed:
        with pytest.raises(kind, match=message):
            replace(good, **settings)


def test_bad_calls(tmp_path: Path) -> None:
    store = writer(tmp_path)
    for index in (-1, 10**6):
        with pytest.raises(ValueError, match="wanted a number from 0 to 999999"):
            store.done(index)
        with pytest.raises(ValueError, match="wanted a number from 0 to 999999"):
            store.write(index, hard(0))
    with pytest.raises(TypeError, match="JSON"):
        store.write(0, hard(0), extra={"x": torch.ones(1)})
    with pytest.raises(ValueError, match="soft_labels of 2 columns: wanted one for each of 3"):
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
        read(tmp_path)
