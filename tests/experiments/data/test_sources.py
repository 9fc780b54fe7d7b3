"""Loading by name: the embedded digits and torchvision's data sets, from small files in their true formats."""

from __future__ import annotations

import gzip
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torchvision import datasets

from experiments.data import load
from experiments.data import sources as module
from experiments.data.batches import Cropped
from hard_aug.data import ImageSet
from tests.helpers.damage import damaged
from tests.helpers.picture_files import write_classes

CONF = Path(__file__).parents[3] / "experiments" / "conf" / "data"


@pytest.fixture(autouse=True)
def _no_cache() -> None:
    module._from_torchvision.cache_clear()


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write bytes in the format of MNIST's files."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(raw: Path, test: int = 30) -> None:
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for stem, count in (("train", 5100), ("t10k", test)):
        write_idx(raw / f"{stem}-images-idx3-ubyte", generator.integers(0, 256, (count, 28, 28)))
        write_idx(raw / f"{stem}-labels-idx1-ubyte", np.arange(count) % 10)


def write_cifar(root: Path, kind: type[datasets.CIFAR10], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Write the pickles of CIFAR's archive with fewer images, without the checksums of the whole ones."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    key, names = ("labels", "label_names") if kind is datasets.CIFAR10 else ("fine_labels", "fine_label_names")
    classes = 10 if kind is datasets.CIFAR10 else 100
    pixels = np.empty(0)
    for files, count in ((kind.train_list, 5100 // len(kind.train_list)), (kind.test_list, 30)):
        for name, _ in files:
            pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
            content = {"data": pixels, key: [number % classes for number in range(count)]}
            (folder / name).write_bytes(pickle.dumps(content))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({names: [f"class {n}" for n in range(classes)]}))
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(kind, attribute, [[name, None] for name, _ in getattr(kind, attribute)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    return pixels


def configured(name: str, **settings: Any) -> Any:
    return instantiate(OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), settings))


def test_digits_are_split_without_overlap() -> None:
    splits = load("mnist5k")
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [3500, 500, 1000]
    assert torch.cat([part.labels for part in parts]).bincount().tolist() == [500] * 10
    images = torch.cat([part.images for part in parts])
    assert images.shape == (5000, 1, 28, 28)
    assert (float(images.min()), float(images.max())) == (0, 1)
    assert torch.equal(configured("mnist5k").test.images, splits.test.images)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist(tmp_path: Path, name: str, folder: str) -> None:
    write_mnist(tmp_path / folder / "raw")
    splits = configured(name, root=str(tmp_path), canvas=40, download=False)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [100, 5000, 30]
    assert splits.test.images.shape == (30, 1, 40, 40)
    assert float(splits.test.images[:, :, :6].abs().max()) == 0
    assert float(splits.test.images[:, :, 6:34, 6:34].max()) == 1
    assert len(splits.classes) == 10
    tinted = load(name, root=str(tmp_path), tint=[1.0, 0.5, 0.0]).test.images
    assert torch.equal(tinted[:, 1], 0.5 * tinted[:, 0])
    assert float(tinted[:, 2].max()) == 0


@pytest.mark.parametrize(
    ("name", "kind", "classes"), [("cifar10", datasets.CIFAR10, 10), ("cifar100", datasets.CIFAR100, 100)]
)
def test_cifar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[datasets.CIFAR10], classes: int
) -> None:
    pixels = write_cifar(tmp_path, kind, monkeypatch)
    splits = configured(name, root=str(tmp_path), download=False)
    assert isinstance(splits.train, Cropped)
    assert (splits.train.padding, splits.train.flip) == (4, True)
    assert (type(splits.validation), type(splits.test)) == (ImageSet, ImageSet)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [100, 5000, 30]
    assert splits.train.shape == (3, 32, 32)
    assert splits.classes == tuple(f"class {n}" for n in range(classes))
    assert torch.equal(splits.test.images, torch.from_numpy(pixels.reshape(-1, 3, 32, 32)).float() / 255)
    assert splits.test.labels.tolist() == [number % classes for number in range(30)]
    shutil.rmtree(tmp_path / kind.base_folder)
    module._from_torchvision.cache_clear()
    with pytest.raises(FileNotFoundError, match=rf"CIFAR.*{tmp_path}.*data\.root"):
        load(name, root=str(tmp_path), download=False)


def test_a_failed_download_does_not_hide_debians_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: datasets.MNIST) -> None:
        Path(self.raw_folder).mkdir(parents=True, exist_ok=True)
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried a mirror, got:\n<urlopen error>\n")

    debian, root = tmp_path / "debian", tmp_path / "data"
    write_mnist(tmp_path / "unpacked")
    debian.mkdir()  # as a removed package may leave it
    monkeypatch.setattr(module, "DEBIAN_FASHION_MNIST", debian)
    with monkeypatch.context() as patched:
        patched.setattr(datasets.MNIST, "download", refuse)
        for name, folder in (("fashion_mnist", "FashionMNIST"), ("mnist", "MNIST")):
            with pytest.raises(FileNotFoundError, match=r"was not downloaded .*data\.root=") as caught:
                load(name, root=str(root))
            assert "\n" not in str(caught.value)
            assert not (root / folder).exists()
    for path in (tmp_path / "unpacked").iterdir():
        (debian / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    (root / "FashionMNIST" / "raw").mkdir(parents=True)  # as torchvision itself leaves it
    assert len(load("fashion_mnist", root=str(root)).test) == 30
    module._from_torchvision.cache_clear()
    shutil.rmtree(root)
    write_mnist(root / "FashionMNIST" / "raw", test=20)  # one's own files come first
    assert len(load("fashion_mnist", root=str(root)).test) == 20


@pytest.mark.parametrize("left", ["train-images-idx3-ubyte.gz", "train-images-idx3-ubyte"])
def test_a_part_of_a_data_set_is_named_and_the_systems_is_read(
    tmp_path: Path, left: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A download that was killed leaves an archive, or an unpacked file that is cut off."""
    debian, raw = tmp_path / "debian", tmp_path / "data" / "FashionMNIST" / "raw"
    write_mnist(tmp_path / "unpacked")
    debian.mkdir()
    for path in (tmp_path / "unpacked").iterdir():
        (debian / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    if left.endswith(".gz"):
        raw.mkdir(parents=True)
        (raw / left).write_bytes((debian / left).read_bytes()[:100])
    else:
        write_mnist(raw)
        (raw / left).write_bytes((raw / left).read_bytes()[:-1])
    message = f"{raw.parent} is incomplete or damaged"
    monkeypatch.setattr(module, "DEBIAN_FASHION_MNIST", debian)
    assert len(load("fashion_mnist", root=str(tmp_path / "data")).test) == 30
    assert message in caplog.text
    assert f"{debian} is read in its place" in caplog.text
    monkeypatch.setattr(module, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    module._from_torchvision.cache_clear()
    with pytest.raises(FileNotFoundError, match=rf"{message}.*; remove it, or set data\.root="):
        load("fashion_mnist", root=str(tmp_path / "data"), download=False)
    monkeypatch.setattr(module, "DEBIAN_FASHION_MNIST", debian)
    for content in damaged((debian / "t10k-images-idx3-ubyte.gz").read_bytes(), 12):
        (debian / "t10k-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(ValueError, match=rf"{debian} is damaged .*install its package again"):
            load("fashion_mnist", root=str(tmp_path / "other"), download=False)


@pytest.mark.parametrize("content", [b"", b"\0\0\10\3" + bytes(12), b"\0\0\10\3\0\0\0\2\0\0\0\2\0\0\0\2abc"])
def test_damaged_files_are_said_to_be_damaged(tmp_path: Path, content: bytes) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError), match=r"damaged \(\w"):
        load("mnist", root=str(tmp_path), download=False)


def test_a_fraction_of_each_class() -> None:
    whole, some, few = (load("mnist5k", fraction=fraction).train for fraction in (1.0, 0.1, 0.001))
    assert some.labels.bincount().tolist() == [round(0.1 * count) for count in whole.labels.bincount().tolist()]
    assert few.labels.bincount().tolist() == [1] * 10
    pixels = {image.numpy().tobytes() for image in some.images}
    assert all(image.numpy().tobytes() in pixels for image in few.images)


def image_folder(root: Path) -> dict[str, Any]:
    for part in ("train", "test"):
        write_classes(root / part, ("a", "b"), 4)
    return {"name": "image_folder", "root": str(root), "size": 16}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (lambda _: {"name": "mnist6k"}, ValueError, "mnist6k.*mnist5k.*image_folder"),
        (lambda _: {"name": "mnist5k", "canvas": 20}, ValueError, "canvas=20.*28 x 28"),
        (lambda _: {"name": "mnist5k", "tint": [1, 2, 0]}, ValueError, "tint="),
        (lambda _: {"name": "mnist5k", "fraction": 0}, ValueError, r"data\.fraction=0"),
        (lambda _: {"name": "mnist5k", "crop_padding": 40}, ValueError, "crop_padding=40.* to 28"),
        (lambda _: {"name": "mnist5k", "crop_padding": -1}, ValueError, "crop_padding=-1"),
        (
            lambda _: {"name": "image_folder", "root": None},
            FileNotFoundError,
            r"requires data\.root=<folder>.*test/<cl",
        ),
        (lambda _: {"name": "mnist", "root": None}, FileNotFoundError, r"data\.root=<folder>.*torchvision"),
        (lambda root: {"name": "mnist", "root": str(root), "download": False}, FileNotFoundError, r"data\.root"),
        (
            lambda root: {**image_folder(root), "in_memory": False, "flip": True},
            ValueError,
            "flip=True.*random_crop",
        ),
        (
            lambda root: {**image_folder(root), "in_memory": False, "canvas": 40},
            ValueError,
            "canvas=40.*in_memory",
        ),
    ],
)
def test_invalid_settings_raise_one_line(
    tmp_path: Path, settings: Callable[[Path], dict[str, Any]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        load(**settings(tmp_path))
    assert "\n" not in str(caught.value)
