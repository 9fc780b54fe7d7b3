"""CIFAR-10-C, CIFAR-100-C and MNIST-C, memory-mapped from their `.npy` files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.data.files import Array, LazyImageSet
from experiments.data.ood.base import Corrupted, OutOfDomain
from hard_aug.data import ImageSet, Splits
from hard_aug.evaluation.corruptions import SEVERITIES

#: The corruptions of MNIST-C.
MNIST_C = (
    "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "shear", "scale", "rotate", "brightness", "translate",
    "stripe", "fog", "spatter", "dotted_line", "zigzag", "canny_edges",
)  # fmt: skip


class ArrayFiles(OutOfDomain):
    """Sets in `.npy` files."""

    def _array(self, path: Path) -> np.ndarray:
        if not path.is_file():
            raise self._missing(path)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{path} cannot be read as an array ({error}); download it again") from error

    def _labels(self, path: Path, classes: int) -> Tensor:
        labels = self._array(path)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
            raise ValueError(f"{path} has {labels.dtype} {labels.shape}: expected integers (N,)")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ValueError(f"{path} has labels from {low} to {high}: the data has {classes} classes")
        return torch.from_numpy(labels.astype(np.int64))

    def _image_set(self, path: Path, labels: Tensor, splits: Splits) -> LazyImageSet:
        array = self._array(path)
        if len(array) != len(labels):
            raise ValueError(f"{path} has {len(array)} images: there are {len(labels)} labels")
        reader = Array(array, path, channels_last=True, shape=splits.train.shape)
        return LazyImageSet(reader, labels.to(splits.train.device))


@dataclass(kw_only=True)
class CifarC(Corrupted, ArrayFiles):
    """CIFAR-10-C or CIFAR-100-C; the four corruptions that are not standard are for validation."""

    name: str = "cifar10_c"
    source: str = "zenodo.org/records/2535967 (CIFAR-10-C) or 3555552 (CIFAR-100-C)"

    def sets(self, splits: Splits) -> dict[str, ImageSet]:
        """See `OutOfDomain.sets`."""
        path = self.folder / "labels.npy"
        labels = self._labels(path, len(splits.classes))
        each, rest = divmod(len(labels), len(SEVERITIES))
        if rest or not each:
            raise ValueError(f"{path} has {len(labels)} labels: expected as many for each severity")
        rows = torch.cat([torch.arange((severity - 1) * each, severity * each) for severity in self.severities])
        parts = {name: self._image_set(self.folder / f"{name}.npy", labels, splits) for name in self.corruptions}
        return self._named({name: part.select(rows) for name, part in parts.items()})


@dataclass(kw_only=True)
class MnistC(ArrayFiles):
    """MNIST-C, in `root` or a folder `mnist_c` of it; `corruptions` are names of folders, None: the 15 of the paper."""

    name: str = "mnist_c"
    source: str = "zenodo.org/records/3239543 (mnist_c.zip)"
    corruptions: Sequence[str] | None = None

    def sets(self, splits: Splits) -> dict[str, ImageSet]:
        """See `OutOfDomain.sets`."""
        root = self.folder / "mnist_c" if (self.folder / "mnist_c").is_dir() else self.folder
        parts = {}
        for name in MNIST_C if self.corruptions is None else self.corruptions:
            labels = self._labels(root / name / "test_labels.npy", len(splits.classes))
            parts[name] = self._image_set(root / name / "test_images.npy", labels, splits)
        return self._named(parts)
