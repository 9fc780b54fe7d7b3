"""CIFAR-10-C, CIFAR-100-C and MNIST-C, memory-mapped from their `.npy` files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.data.ood.base import SEVERITIES, OutOfDomain, check_severities
from experiments.data.streams import Arrays, LazyImageSet
from hard_aug.data import ImageSet, Splits
from hard_aug.evaluation.corruptions import NAMES as STANDARD

#: The corruptions of MNIST-C.
MNIST_C = (
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "shear",
    "scale",
    "rotate",
    "brightness",
    "translate",
    "stripe",
    "fog",
    "spatter",
    "dotted_line",
    "zigzag",
    "canny_edges",
)


class CifarC(OutOfDomain):
    """CIFAR-10-C or CIFAR-100-C.

    Args:
        name: of the set.
        root: folder of the set.
        corruptions: names of files; None: the 15 standard ones (the four further ones are for validation).
        severities: some of 1 to 5.
    """

    def __init__(
        self,
        *,
        name: str = "cifar10_c",
        root: str | None = None,
        corruptions: Sequence[str] | None = None,
        severities: Sequence[int] = SEVERITIES,
    ) -> None:
        super().__init__(name, root, "zenodo.org/records/2535967 (CIFAR-10-C) or 3555552 (CIFAR-100-C)")
        self.corruptions = tuple(STANDARD if corruptions is None else corruptions)
        self.severities = check_severities(severities)

    def sets(self, splits: Splits) -> dict[str, ImageSet]:
        """See `OutOfDomain.sets`."""
        labels = _labels(self.root / "labels.npy", splits, self._missing(self.root / "labels.npy"))
        each, rest = divmod(len(labels), len(SEVERITIES))
        if rest or not each:
            raise ValueError(f"{self.root / 'labels.npy'} has {len(labels)} labels: expected as many for each severity")
        rows = torch.cat([torch.arange((severity - 1) * each, severity * each) for severity in self.severities])
        paths = {corruption: self.root / f"{corruption}.npy" for corruption in self.corruptions}
        parts = {name: _image_set(path, labels, splits, self._missing(path)) for name, path in paths.items()}
        return self._named({name: part.select(rows) for name, part in parts.items()})


class MnistC(OutOfDomain):
    """MNIST-C.

    Args:
        name: of the set.
        root: folder of the set, or the folder above.
        corruptions: names of folders; None: the 15 of the paper.
    """

    def __init__(
        self, *, name: str = "mnist_c", root: str | None = None, corruptions: Sequence[str] | None = None
    ) -> None:
        super().__init__(name, root, "zenodo.org/records/3239543 (mnist_c.zip)")
        self.corruptions = tuple(MNIST_C if corruptions is None else corruptions)

    def sets(self, splits: Splits) -> dict[str, ImageSet]:
        """See `OutOfDomain.sets`."""
        root = self.root / "mnist_c" if (self.root / "mnist_c").is_dir() else self.root
        parts: dict[str, ImageSet] = {}
        for corruption in self.corruptions:
            images, targets = (root / corruption / f"test_{kind}.npy" for kind in ("images", "labels"))
            labels = _labels(targets, splits, self._missing(targets))
            parts[corruption] = _image_set(images, labels, splits, self._missing(images))
        return self._named(parts)


def _array(path: Path, missing: FileNotFoundError) -> np.ndarray:
    if not path.is_file():
        raise missing
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as an array ({error}); download it again") from error


def _labels(path: Path, splits: Splits, missing: FileNotFoundError) -> torch.Tensor:
    labels = _array(path, missing)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise ValueError(f"{path} has {labels.dtype} {labels.shape}: expected integers (N,)")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(splits.classes):
        raise ValueError(f"{path} has labels from {low} to {high}: the data has {len(splits.classes)} classes")
    return torch.from_numpy(labels.astype(np.int64))


def _image_set(path: Path, labels: torch.Tensor, splits: Splits, missing: FileNotFoundError) -> LazyImageSet:
    array = _array(path, missing)
    if len(array) != len(labels):
        raise ValueError(f"{path} has {len(array)} images: there are {len(labels)} labels")
    try:
        reader = Arrays([array], channels_last=True, shape=splits.train.shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return LazyImageSet(reader, labels.to(splits.train.device))
