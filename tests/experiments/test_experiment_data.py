"""The experiments' data: every source gives the same kind of splits; shifts."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.data import sources as data
from experiments.tasks.shifts import random_shift, shift, shifted_test_sets
from hard_aug.data import ImageSet


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write bytes in the format of MNIST's files."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_digits_are_split_without_overlap() -> None:
    splits = data.load("mnist5k")
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [3500, 500, 1000]
    assert torch.cat([part.labels for part in parts]).bincount().tolist() == [500] * 10
    images = torch.cat([part.images for part in parts])
    assert images.shape == (5000, 1, 28, 28)
    assert float(images.min()) == 0
    assert float(images.max()) == 1
    again = data.load("mnist5k")
    assert torch.equal(again.test.images, splits.test.images)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_torchvision_files(tmp_path: Path, name: str, folder: str) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for stem, count in (("train", 5100), ("t10k", 30)):
        write_idx(raw / f"{stem}-images-idx3-ubyte", generator.integers(0, 256, (count, 28, 28)))
        write_idx(raw / f"{stem}-labels-idx1-ubyte", np.arange(count) % 10)
    splits = data.load(name, root=str(tmp_path), canvas=40, download=False)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [100, 5000, 30]
    assert splits.test.images.shape == (30, 1, 40, 40)
    assert float(splits.test.images[:, :, :6].abs().max()) == 0
    assert float(splits.test.images[:, :, 6:34, 6:34].max()) == 1
    assert len(splits.classes) == 10


def test_missing_data_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "DEBIAN_FASHION_MNIST", tmp_path / "nowhere")
    for name in ("mnist", "fashion_mnist"):
        with pytest.raises(FileNotFoundError, match=r"data\.root"):
            data.load(name, root=str(tmp_path / "empty"), download=False)
    with pytest.raises(FileNotFoundError, match=r"data\.root"):
        data.load("image_folder", root=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="mnist5k"):
        data.load("mnist6k")
    with pytest.raises(ValueError, match="canvas=20"):
        data.load("mnist5k", canvas=20)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_folder(tmp_path: Path, channels: int) -> None:
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(5):
                pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    splits = data.load("image_folder", root=str(tmp_path), size=16, channels=channels)
    assert splits.classes == ("cat", "dog")
    assert splits.train.images.shape == (9, channels, 16, 16)
    assert len(splits.validation) == 1
    assert splits.test.images.shape == (10, channels, 16, 16)
    assert 0 <= float(splits.test.images.min()) < float(splits.test.images.max()) <= 1
    with pytest.raises(ValueError, match="channels=2"):
        data.load("image_folder", root=str(tmp_path), channels=2)


def test_shift_moves_content_and_fills_with_zero() -> None:
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
