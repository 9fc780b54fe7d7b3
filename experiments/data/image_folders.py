"""Data sets that are folders of image files.

| name | files under `root` | held out of train |
|---|---|---|
| `image_folder` | `train/<class>/*` and `test/<class>/*` | a tenth |
| `imagenet` | `train/<wnid>/*` and `val/<wnid>/*`, as torchvision's `ImageNet` leaves them | 50,000 |
| `tiny_imagenet` | `wnids.txt`, `train/<wnid>/images/*`, `val/images/*`, `val/val_annotations.txt` | a tenth |

The test images of the last two are those of `val`, because the labels of `test` are not published. `root` of
`tiny_imagenet` may be the folder above `tiny-imagenet-200`. A wnid identifies a class of WordNet; classes are sorted by
it, as networks trained elsewhere expect. Images of all classes are shuffled by a fixed permutation, so that a slice of
the test set is a fair sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from experiments.data.streams import IN_MEMORY, ImageFiles, LazyImageSet
from hard_aug.data import ImageSet, Splits, hold_out

#: What each data set requires under its root, and where to get it.
LAYOUTS = {
    "image_folder": "an image folder has train/<class>/ and test/<class>/ with image files in it",
    "imagenet": (
        "ImageNet has train/<wnid>/ and val/<wnid>/ in it: get ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
        "ILSVRC2012_devkit_t12.tar.gz from image-net.org (with a login), and let torchvision.datasets.ImageNet(root, "
        "split='train') and ImageNet(root, split='val') unpack them"
    ),
    "tiny_imagenet": (
        "Tiny-ImageNet has wnids.txt, train/<wnid>/images/ and val/val_annotations.txt in it: get and unpack "
        "cs231n.stanford.edu/tiny-imagenet-200.zip"
    ),
}
NAMES = tuple(LAYOUTS)
#: Maximum number of images held out for validation; a tenth of smaller data.
HELD_OUT = 50_000


class Listing(NamedTuple):
    """Image files and their labels, in order."""

    paths: list[str]
    labels: list[int]


def expected_layout(name: str) -> str:
    """Return what the folder of a data set has to contain, for error messages."""
    return LAYOUTS.get(name, "the folder of torchvision's downloads")


def load_folder(
    name: str,
    root: Path,
    *,
    size: int,
    resize: int | None = None,
    channels: int = 3,
    random_crop: bool = False,
    in_memory: bool | str = "auto",
) -> Splits:
    """Load images as `ImageSet`s in memory, or as `LazyImageSet`s.

    Args:
        name: see the table above.
        root: folder of the data set.
        size: height and width of the images, pixels.
        resize: length of the shorter side before the crop, pixels; None: `size`.
        channels: 1 or 3.
        random_crop: whether training sees random crops.
        in_memory: True, False or `auto`; see `experiments.data.sources.load`.

    Raises:
        ValueError: a setting outside its range, classes that differ, a file that cannot be decoded (if read at once).
        FileNotFoundError: a missing folder or file; the message says what was expected and where to get it.
    """
    if in_memory not in ("auto", True, False):
        raise ValueError(f"data.in_memory={in_memory!r}: expected auto, true or false")
    if random_crop and in_memory is True:
        raise ValueError("data.random_crop=true requires whole images, but data.in_memory=true keeps centre crops only")
    classes, train, test = (
        _tiny_imagenet(root)
        if name == "tiny_imagenet"
        else _two_folders(root, name, "val" if name == "imagenet" else "test")
    )
    stay, held = hold_out(len(train.paths), max(1, min(len(train.paths) // 10, HELD_OUT)))
    shuffled, _ = hold_out(len(test.paths), 0)
    if not len(stay):
        raise ValueError(f"{root}: one training image; expected at least two, since a tenth is held out")
    seen = ImageFiles(train.paths, size=size, resize=resize, channels=channels, random_crop=random_crop)
    unseen = ImageFiles(test.paths, size=size, resize=resize, channels=channels)
    labels = torch.tensor(train.labels)
    lazy = [
        LazyImageSet(seen, labels[stay], rows=stay),
        LazyImageSet(seen, labels[held], rows=held),
        LazyImageSet(unseen, torch.tensor(test.labels)[shuffled], rows=shuffled),
    ]
    small = sum(part.nbytes for part in lazy) <= IN_MEMORY and not random_crop
    if in_memory is True or (in_memory == "auto" and small):
        return Splits(*(ImageSet(part.read(), part.labels) for part in lazy), classes)
    return Splits(*lazy, classes)


def class_folders(folder: Path, name: str) -> tuple[list[str], dict[str, int]]:
    """Return the names of the class folders, sorted, and the index of each.

    Args:
        folder: that contains them.
        name: of the data set, for the error message.

    Raises:
        FileNotFoundError: no such folder, or no folder in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; set data.root=<folder>; {expected_layout(name)}")
    try:
        return find_classes(str(folder))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} has no folder for each class in it; {expected_layout(name)}") from error


def list_images(folder: Path, labels: dict[str, int]) -> Listing:
    """List all image files below `<folder>/<class>`, sorted within each class.

    Args:
        folder: that contains the class folders.
        labels: label of each class, by name of its folder.

    Raises:
        FileNotFoundError: a class without an image.
    """
    pairs = make_dataset(str(folder), labels, IMG_EXTENSIONS)
    return Listing([path for path, _ in pairs], [label for _, label in pairs])


def _two_folders(root: Path, name: str, test: str) -> tuple[tuple[str, ...], Listing, Listing]:
    classes, labels = class_folders(root / "train", name)
    others, _ = class_folders(root / test, name)
    if others != classes:
        ours, theirs = _shorten(classes), _shorten(others)
        raise ValueError(f"{root}: train has the classes {ours}, {test} {theirs}; expected the same")
    return tuple(classes), list_images(root / "train", labels), list_images(root / test, labels)


def _tiny_imagenet(root: Path) -> tuple[tuple[str, ...], Listing, Listing]:
    if not (root / "wnids.txt").is_file() and (root / "tiny-imagenet-200").is_dir():
        root = root / "tiny-imagenet-200"
    for file in (root / "wnids.txt", root / "val" / "val_annotations.txt"):
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}; set data.root=<folder>; {expected_layout('tiny_imagenet')}")
    classes = tuple(sorted((root / "wnids.txt").read_text().split()))
    labels = {wnid: number for number, wnid in enumerate(classes)}
    missing = [wnid for wnid in classes if not (root / "train" / wnid / "images").is_dir()]
    if missing:
        raise FileNotFoundError(
            f"no folder {root / 'train' / missing[0] / 'images'}; {expected_layout('tiny_imagenet')}"
        )
    paths, targets = [], []
    annotations = root / "val" / "val_annotations.txt"
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in labels:
            raise ValueError(f"{annotations}, line {number}: {line!r}; expected a file, a tab and a wnid of wnids.txt")
        path = root / "val" / "images" / fields[0]
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}, which {annotations} names in line {number}; unpack it again")
        paths.append(str(path))
        targets.append(labels[fields[1]])
    if not paths:
        raise ValueError(f"{annotations} names no image; {expected_layout('tiny_imagenet')}")
    return classes, list_images(root / "train", labels), Listing(paths, targets)


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
