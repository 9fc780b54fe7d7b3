"""Image folders, ImageNet and Tiny-ImageNet from small files in their true layouts, and what is said of other ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.data import files, image_folders, load
from experiments.data.files import LazyImageSet
from hard_aug.data import ImageSet
from tests.helpers.picture_files import write_classes, write_pictures

CONF = Path(__file__).parents[3] / "experiments" / "conf" / "data"
WNIDS = ("n01440764", "n01443537", "n01484850")


def configured(name: str, **settings: Any) -> Any:
    return instantiate(OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), settings))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_classes(tmp_path / "train", ("a", "b", "c"), 8)
    write_classes(tmp_path / "test", ("a", "b", "c"), 4)
    return tmp_path


@pytest.mark.parametrize("channels", [1, 3])
def test_image_folder(root: Path, channels: int) -> None:
    (root / "train" / ".cache").mkdir()  # hidden folders are no classes
    splits = configured("image_folder", root=str(root), size=16, channels=channels)
    assert splits.classes == ("a", "b", "c")
    assert splits.train.images.shape == (20, channels, 16, 16)
    assert splits.validation.labels.bincount().tolist() == [1, 1, 2]
    assert splits.test.images.shape == (12, channels, 16, 16)
    assert 0 <= float(splits.test.images.min()) < float(splits.test.images.max()) <= 1
    with pytest.raises(ValueError, match="channels=2"):
        load("image_folder", root=str(root), channels=2)


def test_twenty_pictures_of_two_classes(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ("cat", "dog"), 20)
    write_classes(tmp_path / "test", ("cat", "dog"), 20)
    splits = configured("image_folder", root=str(tmp_path))
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [36, 4, 40]
    assert splits.validation.labels.bincount(minlength=2).min() >= 1
    both = torch.cat((splits.train.labels, splits.validation.labels))
    assert both.bincount().tolist() == splits.test.labels.bincount().tolist() == [20, 20]


def test_each_class_is_trained_on_and_validated_if_it_has_two_images() -> None:
    for counts in ([1, 2, 30], [2] * 40, [1, 1, 1, 2], [100, 1]):
        labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        stay, held = image_folders._split(labels, len(counts))
        assert sorted([*stay.tolist(), *held.tolist()]) == list(range(sum(counts)))
        assert set(labels[stay].tolist()) == set(range(len(counts)))
        assert {label for label, count in enumerate(counts) if count > 1} <= set(labels[held].tolist())
    large = torch.arange(1000) % 10  # nothing to be moved: a tenth by the fixed permutation
    stay, held = image_folders._split(large, 10)
    assert torch.equal(torch.cat((held, stay)), image_folders.hold_out(1000, 0)[0])
    assert len(held) == 100


def test_small_folders_are_held_and_large_ones_are_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(load("image_folder", root=str(root), size=16).train) is ImageSet
    monkeypatch.setattr(image_folders, "IN_MEMORY", 100_000)
    large = load("image_folder", root=str(root), size=16).train
    assert isinstance(large, LazyImageSet)
    assert type(load("image_folder", root=str(root), size=16, in_memory=True).train) is ImageSet
    monkeypatch.setattr(files, "IN_MEMORY", 10_000)
    with pytest.raises(ValueError, match=r"take 0\.0 GiB.*data\.in_memory=true"):
        _ = large.images
    assert large[slice(0, 2)].images.shape == (2, 3, 16, 16)
    assert large.read().shape == (20, 3, 16, 16)


@pytest.mark.parametrize("channels", [1, 3])
def test_lazy_images_are_those_in_memory(root: Path, channels: int) -> None:
    settings = {"root": str(root), "size": 16, "resize": 18, "channels": channels}
    held = load("image_folder", in_memory=True, **settings)
    read = load("image_folder", in_memory=False, **settings)
    crops = load("image_folder", random_crop=True, **settings)
    for part in ("train", "validation", "test"):
        one, others = getattr(held, part), (getattr(read, part), getattr(crops, part))
        for other in others:  # random crops are seen by `Batches` only
            assert isinstance(other, LazyImageSet)
            assert one.shape == other.shape == (channels, 16, 16)
            assert torch.equal(one.images, other.materialize().images)
            assert torch.equal(one.labels, other.labels)


def write_tiny(root: Path) -> None:
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n", encoding="utf-8")
    lines = []
    for number, wnid in enumerate(WNIDS):
        write_pictures(root / "train" / wnid / "images", 10, seed=number, size=(64, 64), suffix=".JPEG")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("n_0.JPEG\t0\t10\t63\t58\n", encoding="utf-8")
    for number, path in enumerate(write_pictures(root / "val" / "images", 6, seed=9, size=(64, 64), suffix=".JPEG")):
        lines.append(f"{path.name}\t{WNIDS[number % 3]}\t0\t32\t44\t62")
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_tiny_imagenet(tmp_path: Path) -> None:
    root = tmp_path / "tiny-imagenet-200"
    write_tiny(root)
    splits = configured("tiny_imagenet", root=str(tmp_path))
    assert splits.classes == WNIDS  # sorted, though the file is not
    assert set(splits.validation.labels.tolist()) == {0, 1, 2}
    assert splits.train.shape == (3, 64, 64)
    assert torch.cat((splits.train.labels, splits.validation.labels)).bincount().tolist() == [10, 10, 10]
    assert splits.test.labels.bincount().tolist() == [2, 2, 2]
    assert torch.equal(load("tiny_imagenet", root=str(root), size=64).test.images, splits.test.images)


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
        (lambda root: (root / "val" / "val_annotations.txt").write_text("000.JPEG"), ValueError, "line 1"),
        (lambda root: (root / "val" / "val_annotations.txt").write_text(""), ValueError, "names no image"),
    ],
)
def test_a_damaged_tiny_imagenet_raises(
    tmp_path: Path, spoil: Callable[[Path], Any], error: type[Exception], message: str
) -> None:
    write_tiny(tmp_path)
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        load("tiny_imagenet", root=str(tmp_path), size=64)


def test_imagenet(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", WNIDS, 5, suffix=".JPEG", size=(40, 30))
    write_classes(tmp_path / "val", WNIDS, 2, suffix=".JPEG", size=(40, 30))
    splits = configured("imagenet", root=str(tmp_path), size=16, resize=20)
    assert splits.classes == WNIDS
    assert isinstance(splits.train, LazyImageSet)  # random crops are of whole images
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [12, 3, 6]
    assert splits.train[slice(0, 3)].materialize().images.shape == (3, 3, 16, 16)


def flat(root: Path) -> None:
    shutil.rmtree(root / "train")
    write_pictures(root / "train", 3)


def without_images(root: Path) -> None:
    shutil.rmtree(root / "train" / "b")
    (root / "train" / "b").mkdir()
    (root / "train" / "b" / "list.txt").write_text("a.png", encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda root: shutil.rmtree(root), FileNotFoundError, "no folder .*/train"),
        (lambda root: shutil.rmtree(root / "train"), FileNotFoundError, "no folder .*/train"),
        (lambda root: shutil.rmtree(root / "test"), FileNotFoundError, "no folder .*/test"),
        (flat, FileNotFoundError, "train has no folder for each class"),
        (without_images, FileNotFoundError, r"no image file \(\.jpg, .*/train/b"),
        (lambda root: shutil.rmtree(root / "test" / "b"), ValueError, "train has the classes a, b, c, test a, c"),
        (lambda root: (root / "test" / "b").rename(root / "test" / "B"), ValueError, "test B, a, c"),
    ],
)
def test_another_layout_is_one_clear_line(
    root: Path, spoil: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    spoil(root)
    with pytest.raises(error, match=message + r".*train/<class>/ and test/<class>/ with image files") as caught:
        load("image_folder", root=str(root), size=16)
    assert "\n" not in str(caught.value)


def test_wrong_imagenet_folders_say_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.root.*image-net\.org"):
        load("imagenet", root=None)
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/train.*image-net\.org"):
        load("imagenet", root=str(tmp_path))
    write_classes(tmp_path / "train", WNIDS, 2)
    write_pictures(tmp_path / "val", 3)  # as the archive has them, not yet sorted into classes
    with pytest.raises(FileNotFoundError, match=r"no folder for each class.*torchvision"):
        load("imagenet", root=str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_memory": "maybe"}, "in_memory='maybe'"),
        ({"in_memory": True, "random_crop": True}, "random_crop=true"),
        ({"size": 0}, "size=0"),
        ({"resize": 8}, "resize=8"),
    ],
)
def test_invalid_settings_raise(root: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("image_folder", **{"root": str(root), "size": 16, **settings})


def test_single_images_cannot_be_split(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ("a", "b"), 1)
    write_classes(tmp_path / "test", ("a", "b"), 1)
    with pytest.raises(ValueError, match="at least two"):
        load("image_folder", root=str(tmp_path), size=16)


ODD = ("-dash", " blank", "a=[1]", "$x$ & <b>", "é 🦊", "quote'\"", "two\nlines", "\udcff")


def test_classes_with_any_name_among_stray_files(tmp_path: Path) -> None:
    """As unpacking, notebooks and file servers leave them; a linked folder is a class, a linked file an image."""
    root = tmp_path / "data of [me] $x$"
    for part in ("train", "test"):
        write_classes(root / part, ODD, 4)
        write_pictures(tmp_path / "elsewhere" / part, 4)
        (root / part / "linked").symlink_to(tmp_path / "elsewhere" / part)
        for stray in (".DS_Store", "Thumbs.db", "README.md", "desktop.ini"):
            (root / part / stray).write_bytes(b"x")
            (root / part / ODD[0] / stray).write_bytes(b"x")
        (root / part / ODD[0] / "._000.png").write_bytes(b"x")
        for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
            write_pictures(root / part / hidden, 1)
            write_pictures(root / part / ODD[1] / hidden, 1)
    (root / "train" / ODD[0] / "link.png").symlink_to(root / "train" / ODD[0] / "000.png")
    splits = load("image_folder", root=str(root), size=16)
    assert splits.classes == tuple(sorted((*ODD, "linked")))
    assert splits.test.labels.bincount().tolist() == [4] * (len(ODD) + 1)
    both = torch.cat((splits.train.labels, splits.validation.labels)).bincount().tolist()
    assert both == [5 if name == ODD[0] else 4 for name in splits.classes]


def test_classes_that_differ_are_named_however_many_there_are(tmp_path: Path) -> None:
    names = tuple(f"c{number:02d}" for number in range(12))
    write_classes(tmp_path / "train", names, 2)
    write_classes(tmp_path / "test", names[:-1], 2)
    with pytest.raises(ValueError, match="expected the same, but one of them lacks c11"):
        load("image_folder", root=str(tmp_path), size=16)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell leaves it after `data.root=`."""
    for part in ("train", "test"):
        write_classes(tmp_path / "x" / part, ("a", "b"), 4)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load("image_folder", root="~/x", size=16).test) == 8
