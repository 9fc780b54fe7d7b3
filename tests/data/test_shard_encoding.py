"""The files of a shard, read by this library and by other programs."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from hard_aug.data import HardImages
from hard_aug.data.shard_encoding import class_folders, encode_archives, encode_image_folder, read_facts, read_pixels
from tests.helpers.shard_parts import CLASSES, LAYOUTS, ROWS, SHARDS, hard, write_all, writer


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_decoded_is_what_was_encoded(tmp_path: Path, layout: str, channels: int) -> None:
    images = hard(2, channels=channels)
    encode = encode_archives if layout == "webdataset" else encode_image_folder
    files = dict(encode(2, images, CLASSES))
    assert files == dict(encode(2, images, CLASSES))  # to the bit
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    shape = [channels, 5, 5]
    manifest = {"shard": 2, "layout": layout, "classes": CLASSES, "shape": shape, "sha256": dict.fromkeys(files)}
    facts = read_facts(tmp_path, manifest)
    assert all(torch.equal(values, getattr(images, name)) for name, values in facts.items())
    rows = images.accepted.nonzero().flatten()
    assert torch.equal(read_pixels(tmp_path, manifest, facts, rows.tolist()), images.images[rows])


def test_any_reader_of_archives_reads_shards(tmp_path: Path) -> None:
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


def test_webdataset_reads_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    write_all(tmp_path)
    pattern = str(tmp_path / f"shard-{{000000..{SHARDS - 1:06d}}}.tar")
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("torchrgb8"))
    everything = HardImages.cat([hard(index) for index in range(SHARDS)])
    everything = everything[everything.accepted]  # it sees no others
    assert [sample["cls"] for sample in samples] == everything.labels.tolist()
    assert all(torch.equal(torch.as_tensor(s["png"]), i) for s, i in zip(samples, everything.images, strict=True))
    assert [sample["json"]["seed"] for sample in samples] == everything.seeds.tolist()


def test_image_folder_reads_shards(tmp_path: Path) -> None:
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
    names = class_folders([f"{'é.. ' * 40}{label % 7}" for label in range(1000)])
    assert sorted(names) == names
    assert len(set(names)) == 1000
    assert max(map(len, names)) <= 64
