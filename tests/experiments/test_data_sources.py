"""CIFAR, Tiny-ImageNet and ImageNet from small files in their true formats, and the errors of missing files."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torchvision import datasets

from experiments.data import image_folders as folders
from experiments.data import sources as data
from experiments.data.streams import LazyImageSet
from experiments.training.loop import Batches
from tests.experiments.test_experiment_run import config_of
from tests.helpers.picture_files import write_classes, write_pictures

WNIDS = ("n01440764", "n01443537", "n01484850")


def write_cifar(root: Path, kind: type[datasets.CIFAR10], monkeypatch: pytest.MonkeyPatch, train: int) -> np.ndarray:
    """Write the pickles of CIFAR's archive with fewer images, without the checksums of the whole ones."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    key, names = ("labels", "label_names") if kind is datasets.CIFAR10 else ("fine_labels", "fine_label_names")
    classes = 10 if kind is datasets.CIFAR10 else 100
    pixels = np.empty(0)
    for files, count in ((kind.train_list, train // len(kind.train_list)), (kind.test_list, 30)):
        for name, _ in files:
            pixels = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
            content = {"data": pixels, key: [number % classes for number in range(count)]}
            (folder / name).write_bytes(pickle.dumps(content))
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({names: [f"class {n}" for n in range(classes)]}))
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(kind, attribute, [[name, None] for name, _ in getattr(kind, attribute)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    return pixels


@pytest.mark.parametrize(
    ("name", "kind", "classes"), [("cifar10", datasets.CIFAR10, 10), ("cifar100", datasets.CIFAR100, 100)]
)
def test_cifar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[datasets.CIFAR10], classes: int
) -> None:
    pixels = write_cifar(tmp_path, kind, monkeypatch, train=5100)
    config = config_of(tmp_path, f"data={name}", f"data.root={tmp_path}", "data.download=false")
    splits = instantiate(config.data)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [100, 5000, 30]
    assert splits.train.shape == (3, 32, 32)
    assert splits.classes == tuple(f"class {n}" for n in range(classes))
    expected = torch.from_numpy(pixels.reshape(-1, 3, 32, 32)).float() / 255
    assert torch.equal(splits.test.images, expected)
    assert splits.test.labels.tolist() == [number % classes for number in range(30)]
    shutil.rmtree(tmp_path / kind.base_folder)
    data._from_torchvision.cache_clear()
    with pytest.raises(FileNotFoundError, match=rf"(?s)CIFAR.*{tmp_path}.*data\.root"):
        data.load(name, root=str(tmp_path), download=False)


def test_training_on_cifar_uses_crops_and_flips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, datasets.CIFAR10, monkeypatch, train=5100)
    part = data.load("cifar10", root=str(tmp_path), download=False, crop_padding=4, flip=True).train
    seen = part.view(0, 3)[slice(0, 64)]
    assert seen.images.shape == part.images[:64].shape
    places = 0
    for image, original in zip(seen.images, part.images[:64], strict=True):
        padded = torch.nn.functional.pad(original, (4, 4, 4, 4))
        candidates = torch.stack([padded[:, y : y + 32, x : x + 32] for y in range(9) for x in range(9)])
        candidates = torch.cat([candidates, candidates.flip(-1)])
        found = (candidates == image).flatten(1).all(1).nonzero().flatten()
        assert len(found) == 1
        places += int(found) != 40  # the unchanged image
    assert places > 50
    again, other = part.to(torch.device("cpu")).view(0, 3)[slice(0, 64)], part.view(0, 4)[slice(0, 64)]
    assert torch.equal(again.images, seen.images)
    assert not torch.equal(other.images, seen.images)
    assert torch.equal(part[slice(0, 64)].images, part.images[:64])  # outside a training
    batches = Batches(part, 16, seed=0)
    assert not torch.equal(batches.next().images, Batches(part.materialize(), 16, seed=0).next().images)
    with pytest.raises(ValueError, match="crop_padding=40"):
        data.load("cifar10", root=str(tmp_path), download=False, crop_padding=40)
    for split in ("train", "test"):
        write_pictures(tmp_path / split / "a", 20, seed=0)
    with pytest.raises(ValueError, match="random_crop=true"):
        data.load("image_folder", root=str(tmp_path), in_memory=False, flip=True)


def write_tiny(root: Path) -> None:
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    lines = []
    for number, wnid in enumerate(WNIDS):
        write_pictures(root / "train" / wnid / "images", 10, seed=number, size=(64, 64), suffix=".JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("n_0.JPEG\t0\t10\t63\t58\n")
    for number, path in enumerate(write_pictures(root / "val" / "images", 6, seed=9, size=(64, 64), suffix=".JPEG")):
        lines.append(f"{path.name}\t{WNIDS[number % 3]}\t0\t32\t44\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")


def test_tiny_imagenet(tmp_path: Path) -> None:
    root = tmp_path / "tiny-imagenet-200"
    write_tiny(root)
    config = config_of(tmp_path, "data=tiny_imagenet", f"data.root={tmp_path}")
    splits = instantiate(config.data)
    assert splits.classes == WNIDS  # sorted, though the file is not
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [27, 3, 6]
    assert splits.train.shape == (3, 64, 64)
    assert torch.cat((splits.train.labels, splits.validation.labels)).bincount().tolist() == [10, 10, 10]
    assert splits.test.labels.bincount().tolist() == [2, 2, 2]
    assert torch.equal(data.load("tiny_imagenet", root=str(root), size=64).test.images, splits.test.images)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda root: (root / "wnids.txt").unlink(), FileNotFoundError, r"wnids\.txt.*cs231n"),
        (lambda root: shutil.rmtree(root / "train" / WNIDS[1]), FileNotFoundError, WNIDS[1]),
        (lambda root: (root / "val" / "images" / "003.JPEG").unlink(), FileNotFoundError, r"003\.JPEG.*line 4"),
        (
            lambda root: (root / "val" / "val_annotations.txt").write_text("000.JPEG\tn999\t0\t0\t1\t1\n"),
            ValueError,
            "line 1.*n999",
        ),
        (lambda root: (root / "val" / "val_annotations.txt").write_text(""), ValueError, "names no image"),
    ],
)
def test_a_damaged_tiny_imagenet_raises(tmp_path: Path, spoil, error: type[Exception], message: str) -> None:
    write_tiny(tmp_path)
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        data.load("tiny_imagenet", root=str(tmp_path), size=64)


def test_imagenet(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", WNIDS, 5, suffix=".JPEG", size=(40, 30))
    write_classes(tmp_path / "val", WNIDS, 2, suffix=".JPEG", size=(40, 30))
    sizes = ["data.size=16", "data.resize=20"]
    splits = instantiate(config_of(tmp_path, "data=imagenet", f"data.root={tmp_path}", *sizes).data)
    assert splits.classes == WNIDS
    assert isinstance(splits.train, LazyImageSet)  # random crops are of whole images
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [14, 1, 6]
    assert splits.train[slice(0, 3)].materialize().images.shape == (3, 3, 16, 16)


def test_wrong_imagenet_folders_raise(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.root.*image-net\.org"):
        data.load("imagenet", root=None)
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/train.*image-net\.org"):
        data.load("imagenet", root=str(tmp_path))
    write_classes(tmp_path / "train", WNIDS, 2)
    write_pictures(tmp_path / "val", 3)  # as the archive has them, not yet sorted into classes
    with pytest.raises(FileNotFoundError, match=r"no folder for each class.*torchvision"):
        data.load("imagenet", root=str(tmp_path))
    write_classes(tmp_path / "val", WNIDS[:2], 2)
    with pytest.raises(ValueError, match=r"train has the classes .*n01484850, val n01440764, n01443537; expected"):
        data.load("imagenet", root=str(tmp_path))
    (tmp_path / "val" / WNIDS[2]).mkdir()
    with pytest.raises(FileNotFoundError, match=WNIDS[2]):  # a class without an image
        data.load("imagenet", root=str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_memory": "maybe"}, "in_memory='maybe'"),
        ({"in_memory": True, "random_crop": True}, "random_crop=true"),
        ({"size": 0}, "size=0"),
        ({"resize": 8}, "resize=8"),
        ({"in_memory": False, "canvas": 40}, "canvas=40"),
    ],
)
def test_invalid_settings_raise(tmp_path: Path, settings: dict, message: str) -> None:
    write_classes(tmp_path / "train", ("a", "b"), 2)
    write_classes(tmp_path / "test", ("a", "b"), 1)
    with pytest.raises(ValueError, match=message):
        data.load("image_folder", **{"root": str(tmp_path), "size": 16, **settings})


def test_one_image_cannot_be_split(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ("a",), 1)
    write_classes(tmp_path / "test", ("a",), 1)
    with pytest.raises(ValueError, match="at least two"):
        folders.load_folder("image_folder", tmp_path, size=16)
