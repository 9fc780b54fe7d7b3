"""Data sets that are folders of pictures.

| name | files under `root` | held out of train |
|---|---|---|
| `image_folder` | `train/<class>/*` and `test/<class>/*` | a tenth |
| `imagenet` | `train/<wnid>/*` and `val/<wnid>/*`, as torchvision's `ImageNet` leaves them | 50,000 |
| `tiny_imagenet` | `wnids.txt`, `train/<wnid>/images/*`, `val/images/*`, `val/val_annotations.txt` | a tenth |

The test pictures of the last two are those of `val`: their makers keep the labels of `test`. `root` of `tiny_imagenet`
may be the folder above `tiny-imagenet-200`. A wnid names a class of WordNet; the classes are sorted by it, as networks
trained elsewhere have them. Pictures of all classes are mixed, by a fixed permutation, so that a slice of the test is a
fair sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from experiments.parts import Part, Splits, hold_out
from experiments.streams import IN_MEMORY, Pictures, Stream

#: What each wants under its root, and where it is to be had.
WANTED = {
    "image_folder": "an image folder's has train/<class>/ and test/<class>/ with pictures in it",
    "imagenet": (
        "ImageNet's has train/<wnid>/ and val/<wnid>/ in it: get ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
        "ILSVRC2012_devkit_t12.tar.gz from image-net.org (with a login), and let torchvision.datasets.ImageNet(root, "
        "split='train') and ImageNet(root, split='val') unpack them"
    ),
    "tiny_imagenet": (
        "Tiny-ImageNet's has wnids.txt, train/<wnid>/images/ and val/val_annotations.txt in it: get and unpack "
        "cs231n.stanford.edu/tiny-imagenet-200.zip"
    ),
}
NAMES = tuple(WANTED)
#: Most pictures that are held out for validation; a tenth of smaller data.
HELD_OUT = 50_000


class Listing(NamedTuple):
    """Files and their labels, in order."""

    paths: list[str]
    labels: list[int]


def wanted(name: str) -> str:
    """What a data set's folder has in it."""
    return WANTED.get(name, "the folder of torchvision's downloads")


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
    """Pictures as `Part`s in memory, or as `Stream`s. See `experiments.data.load`.

    Raises:
        ValueError: a setting outside its range, classes that differ, a file that is no picture (if read at once).
        FileNotFoundError: a folder or file that is not there; says what was wanted and where to get it.
    """
    if in_memory not in ("auto", True, False):
        raise ValueError(f"data.in_memory={in_memory!r}: wanted auto, true or false")
    if random_crop and in_memory is True:
        raise ValueError("data.random_crop=true wants the whole pictures, data.in_memory=true keeps their centres")
    classes, train, test = {"imagenet": _imagenet, "tiny_imagenet": _tiny_imagenet}.get(name, _image_folder)(root)
    stay, held = hold_out(len(train.paths), max(1, min(len(train.paths) // 10, HELD_OUT)))
    mixed, _ = hold_out(len(test.paths), 0)
    if not len(stay):
        raise ValueError(f"{root}: one training picture; wanted at least two, since a tenth is held out")
    seen = Pictures(train.paths, size=size, resize=resize, channels=channels, random_crop=random_crop)
    unseen = Pictures(test.paths, size=size, resize=resize, channels=channels)
    labels = torch.tensor(train.labels)
    parts: list[Part] = [
        Stream(seen, labels[stay], rows=stay),
        Stream(seen, labels[held], rows=held),
        Stream(unseen, torch.tensor(test.labels)[mixed], rows=mixed),
    ]
    small = sum(part.nbytes for part in parts if isinstance(part, Stream)) <= IN_MEMORY and not random_crop
    if in_memory is True or (in_memory == "auto" and small):
        parts = [Part(part.read(), part.labels) for part in parts if isinstance(part, Stream)]
    return Splits(*parts, classes)


def class_folders(folder: Path, name: str) -> tuple[list[str], dict[str, int]]:
    """The folders' names, sorted, and the index of each.

    Raises:
        FileNotFoundError: no such folder, or none in it; says what `name`'s has.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; give data.root=<folder>; {wanted(name)}")
    try:
        return find_classes(str(folder))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} has no folder for each class in it; {wanted(name)}") from error


def pictures(folder: Path, labels: dict[str, int]) -> Listing:
    """All pictures below `<folder>/<class>`, sorted within each class.

    Raises:
        FileNotFoundError: a class without a picture.
    """
    pairs = make_dataset(str(folder), labels, IMG_EXTENSIONS)
    return Listing([path for path, _ in pairs], [label for _, label in pairs])


def _two_folders(root: Path, name: str, test: str) -> tuple[tuple[str, ...], Listing, Listing]:
    classes, labels = class_folders(root / "train", name)
    others, _ = class_folders(root / test, name)
    if others != classes:
        raise ValueError(f"{root}: train has the classes {_some(classes)}, {test} {_some(others)}; wanted the same")
    return tuple(classes), pictures(root / "train", labels), pictures(root / test, labels)


def _image_folder(root: Path) -> tuple[tuple[str, ...], Listing, Listing]:
    return _two_folders(root, "image_folder", "test")


def _imagenet(root: Path) -> tuple[tuple[str, ...], Listing, Listing]:
    return _two_folders(root, "imagenet", "val")


def _tiny_imagenet(root: Path) -> tuple[tuple[str, ...], Listing, Listing]:
    if not (root / "wnids.txt").is_file() and (root / "tiny-imagenet-200").is_dir():
        root = root / "tiny-imagenet-200"
    for file in (root / "wnids.txt", root / "val" / "val_annotations.txt"):
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}; give data.root=<folder>; {wanted('tiny_imagenet')}")
    classes = tuple(sorted((root / "wnids.txt").read_text().split()))
    labels = {wnid: number for number, wnid in enumerate(classes)}
    missing = [wnid for wnid in classes if not (root / "train" / wnid / "images").is_dir()]
    if missing:
        raise FileNotFoundError(f"no folder {root / 'train' / missing[0] / 'images'}; {wanted('tiny_imagenet')}")
    paths, targets = [], []
    annotations = root / "val" / "val_annotations.txt"
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in labels:
            raise ValueError(f"{annotations}, line {number}: {line!r}; wanted a file, a tab and a wnid of wnids.txt")
        path = root / "val" / "images" / fields[0]
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}, which {annotations} names in line {number}; unpack it again")
        paths.append(str(path))
        targets.append(labels[fields[1]])
    if not paths:
        raise ValueError(f"{annotations} names no picture; {wanted('tiny_imagenet')}")
    return classes, pictures(root / "train", labels), Listing(paths, targets)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
