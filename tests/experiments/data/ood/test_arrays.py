"""CIFAR-10-C and MNIST-C, from tiny arrays in their true format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.data.ood import CifarC, MnistC
from experiments.data.ood.arrays import MNIST_C
from hard_aug.data import ImageSet, Splits
from hard_aug.evaluation.corruptions import NAMES

DIGITS = tuple(map(str, range(10)))


def splits_of(shape: tuple[int, int, int], classes: tuple[str, ...]) -> Splits:
    part = ImageSet(torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64))
    return Splits(part, part, part, classes)


def write_cifar_c(root: Path, corruptions: tuple[str, ...] = NAMES, each: int = 4) -> np.ndarray:
    root.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    pixels = np.empty(0)
    for name in corruptions:
        pixels = generator.integers(0, 256, (5 * each, 32, 32, 3), dtype=np.uint8)
        np.save(root / f"{name}.npy", pixels)
    np.save(root / "labels.npy", np.tile(np.arange(each), 5).astype(np.uint8))
    return pixels


def test_cifar_c(tmp_path: Path) -> None:
    pixels = write_cifar_c(tmp_path)
    found = CifarC(root=str(tmp_path)).sets(splits_of((3, 32, 32), DIGITS))
    assert list(found) == ["cifar10_c", *(f"cifar10_c/{name}" for name in NAMES)]
    assert [len(part) for part in found.values()] == [300, *[20] * 15]
    last = found[f"cifar10_c/{NAMES[-1]}"]
    assert torch.equal(last.materialize().images, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    assert last.labels.tolist() == [0, 1, 2, 3] * 5
    chosen = CifarC(root=str(tmp_path), corruptions=["fog"], severities=[5, 2])
    fog = chosen.sets(splits_of((3, 32, 32), DIGITS))["cifar10_c/fog"].materialize().images
    whole = torch.from_numpy(np.load(tmp_path / "fog.npy")).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(fog, torch.cat((whole[16:20], whole[4:8])))
    padded = CifarC(root=str(tmp_path)).sets(splits_of((3, 40, 40), DIGITS))["cifar10_c"]
    assert padded[slice(0, 2)].images.shape == (2, 3, 40, 40)


def save(path: Path, array: np.ndarray) -> None:
    np.save(path, array)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda root: (root / "fog.npy").unlink(), FileNotFoundError, r"fog\.npy.*zenodo"),
        (lambda root: (root / "labels.npy").unlink(), FileNotFoundError, r"labels\.npy"),
        (lambda root: (root / "fog.npy").write_bytes(b"\x93NUMPY nothing"), ValueError, r"fog\.npy cannot be read"),
        (lambda root: (root / "fog.npy").write_bytes(b""), ValueError, r"fog\.npy cannot be read"),
        (lambda root: (root / "fog.npy").write_bytes((root / "fog.npy").read_bytes()[:9000]), ValueError, r"fog\.npy"),
        (lambda root: save(root / "fog.npy", np.zeros((19, 32, 32, 3), np.uint8)), ValueError, "19 images.*20 labels"),
        (lambda root: save(root / "fog.npy", np.zeros((20, 32, 32, 3))), ValueError, r"fog\.npy.*float64"),
        (lambda root: save(root / "fog.npy", np.zeros((20, 48, 48, 3), np.uint8)), ValueError, "fit into"),
        (lambda root: save(root / "labels.npy", np.full(20, 10)), ValueError, "labels from 10 to 10.*10 classes"),
        (lambda root: save(root / "labels.npy", np.zeros(18, np.uint8)), ValueError, "18 labels.*each severity"),
        (lambda root: save(root / "labels.npy", np.zeros(20)), ValueError, "integers"),
    ],
)
def test_a_damaged_cifar_c_raises(
    tmp_path: Path, spoil: Callable[[Path], Any], error: type[Exception], message: str
) -> None:
    write_cifar_c(tmp_path)
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        CifarC(root=str(tmp_path)).sets(splits_of((3, 32, 32), DIGITS))


def test_cifar_c_requires_matching_data(tmp_path: Path) -> None:
    write_cifar_c(tmp_path, each=12)
    with pytest.raises(ValueError, match="labels from 0 to 11: the data has 10 classes"):  # CIFAR-100-C beside CIFAR-10
        CifarC(root=str(tmp_path)).sets(splits_of((3, 32, 32), DIGITS))
    with pytest.raises(ValueError, match="do not fit into"):  # grey data
        CifarC(root=str(tmp_path)).sets(splits_of((1, 32, 32), tuple(map(str, range(100)))))
    with pytest.raises(ValueError, match=r"severities=\[0\]"):
        CifarC(root=str(tmp_path), severities=[0])
    with pytest.raises(ValueError, match=r"severities=\[1, 1\]"):
        CifarC(root=str(tmp_path), severities=[1, 1])


def test_mnist_c(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("identity", *MNIST_C):
        (tmp_path / "mnist_c" / name).mkdir(parents=True)
        for part, count in (("train", 3), ("test", 6)):
            pixels = generator.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
            np.save(tmp_path / "mnist_c" / name / f"{part}_images.npy", pixels)
            np.save(tmp_path / "mnist_c" / name / f"{part}_labels.npy", np.arange(count))
    splits = splits_of((1, 40, 40), DIGITS)  # a canvas
    found = MnistC(root=str(tmp_path)).sets(splits)
    assert list(found) == ["mnist_c", *(f"mnist_c/{name}" for name in MNIST_C)]
    assert len(found["mnist_c"]) == 15 * 6
    expected = np.load(tmp_path / "mnist_c" / "zigzag" / "test_images.npy")[:, :, :, 0]
    zigzag = found["mnist_c/zigzag"].materialize()
    assert torch.equal(zigzag.images[:, 0, 6:34, 6:34] * 255, torch.from_numpy(expected).float())
    assert zigzag.labels.tolist() == list(range(6))
    (tmp_path / "mnist_c" / "scale" / "test_labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"scale/test_labels\.npy"):
        MnistC(root=str(tmp_path)).sets(splits)
