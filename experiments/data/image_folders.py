"""Data sets that are folders of image files.

| name | files under `root` | held out of train |
|---|---|---|
| `image_folder` | `train/<class>/*` and `test/<class>/*` | a tenth |
| `imagenet` | `train/<wnid>/*` and `val/<wnid>/*`, as torchvision's `ImageNet` leaves them | 50,000 |
| `tiny_imagenet` | `wnids.txt`, `train/<wnid>/images/*`, `val/images/*`, `val/val_annotations.txt` | a tenth |

The test images of the last two are those of `val`, because the labels of `test` are not published. `root` of
`tiny_imagenet` may be the folder above `tiny-imagenet-200`. A wnid identifies a class of WordNet; classes are sorted by
it, as networks trained elsewhere expect. Images of all classes are shuffled by a fixed permutation, so that a slice of
the test set is a fair sample; each class with two images or more has one to train on and one to validate on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from experiments.data.files import IN_MEMORY, ImageFiles, LazyImageSet
from hard_aug.data import ImageSet, Splits, hold_out
from hard_aug.data.image_files import list_class_folders, list_image_tree

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
#: Maximum number of images held out for validation; a tenth of smaller data.
HELD_OUT = 50_000
#: Image files and their labels, in order.
Listing = tuple[list[str], list[int]]


def load_folder(name: str, root: Path, shape: Mapping[str, Any], *, random_crop: bool, in_memory: bool | str) -> Splits:
    """Load images, of a shape given by settings of `ImageFiles`, as `ImageSet`s in memory, or as `LazyImageSet`s.

    Raises `ValueError` and `FileNotFoundError` as `experiments.data.sources.load` does.
    """
    if in_memory not in ("auto", True, False):
        raise ValueError(f"data.in_memory={in_memory!r}: expected auto, true or false")
    if random_crop and in_memory is True:
        raise ValueError("data.random_crop=true requires whole images, but data.in_memory=true keeps centre crops only")
    read = _tiny_imagenet(root) if name == "tiny_imagenet" else _two_folders(root, name)
    classes, (train, labels), (test, test_labels) = read
    stay, held = _split(torch.tensor(labels), len(classes))
    if not len(held):
        raise ValueError(f"{root}: one training image of each class; expected at least two, since some are held out")
    seen, unseen = ImageFiles(train, **shape, random_crop=random_crop), ImageFiles(test, **shape)
    parts = ((seen, labels, stay), (seen, labels, held), (unseen, test_labels, hold_out(len(test), 0)[0]))
    lazy = [LazyImageSet(files, torch.tensor(targets)[rows], rows=rows) for files, targets, rows in parts]
    small = sum(part.nbytes for part in lazy) <= IN_MEMORY and not random_crop
    if in_memory is True or (in_memory == "auto" and small):
        return Splits(*(ImageSet(part.read(), part.labels) for part in lazy), classes)
    return Splits(*lazy, classes)


def list_images(folder: Path, labels: dict[str, int], layout: str = "each class needs one") -> Listing:
    """List all image files below `<folder>/<class>`, sorted within each class; raise for a class without any.

    Links are followed; hidden files and folders (a notebook's checkpoints) and other files are left out.
    """
    found = {name: list_image_tree(folder / name) for name in sorted(labels)}
    empty = [str(folder / name) for name in labels if not found[name]]
    if empty:
        raise FileNotFoundError(f"no image file ({', '.join(IMG_EXTENSIONS)}) in {_shorten(empty)}; {layout}")
    paths = [path for each in found.values() for path in each]
    return paths, [labels[name] for name, each in found.items() for _ in each]


def _split(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the rows that stay and those held out."""
    order, _ = hold_out(len(labels), 0)
    is_held = torch.arange(len(order)) < max(1, min(len(order) // 10, HELD_OUT))
    ordered = labels[order]
    for held, row in ((True, 0), (False, -1)):  # small data: both parts have each class; a class's only image stays
        counts = torch.bincount(ordered[is_held == held], minlength=classes)
        for label in (counts == 0).nonzero().flatten():
            is_held[(ordered == label).nonzero()[row]] = held
    return order[~is_held], order[is_held]


def _class_folders(folder: Path, name: str) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; set data.root=<folder>; {LAYOUTS[name]}")
    classes = list_class_folders(folder)
    if not classes:
        raise FileNotFoundError(f"{folder} has no folder for each class in it; {LAYOUTS[name]}")
    return classes


def _two_folders(root: Path, name: str) -> tuple[tuple[str, ...], Listing, Listing]:
    test = "val" if name == "imagenet" else "test"
    classes, others = (_class_folders(root / part, name) for part in ("train", test))
    if others != classes:
        given = f"train has the classes {_shorten(classes)}, {test} {_shorten(others)}"
        only = _shorten(sorted(set(classes) ^ set(others)))
        raise ValueError(f"{root}: {given}; expected the same, but one of them lacks {only}; {LAYOUTS[name]}")
    labels = {title: number for number, title in enumerate(classes)}
    return tuple(classes), *(list_images(root / part, labels, LAYOUTS[name]) for part in ("train", test))


def _tiny_imagenet(root: Path) -> tuple[tuple[str, ...], Listing, Listing]:
    if not (root / "wnids.txt").is_file() and (root / "tiny-imagenet-200").is_dir():
        root = root / "tiny-imagenet-200"
    annotations, layout = root / "val" / "val_annotations.txt", LAYOUTS["tiny_imagenet"]
    for file in (root / "wnids.txt", annotations):
        if not file.is_file():
            raise FileNotFoundError(f"no file {file}; set data.root=<folder>; {layout}")
    classes = tuple(sorted((root / "wnids.txt").read_text(encoding="utf-8").split()))
    labels = {wnid: number for number, wnid in enumerate(classes)}
    paths, targets = [], []
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), 1):
        file, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in labels:
            raise ValueError(f"{annotations}, line {number}: {line!r}; expected a file, a tab and a wnid of wnids.txt")
        path = root / "val" / "images" / file
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}, which {annotations} names in line {number}; unpack it again")
        paths.append(str(path))
        targets.append(labels[wnid])
    if not paths:
        raise ValueError(f"{annotations} names no image; {layout}")
    return classes, list_images(root / "train", labels, layout), (paths, targets)


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
