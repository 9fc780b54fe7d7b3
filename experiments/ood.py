"""Published out-of-domain test sets, from their folders, for students of the data they go with.

| class | sets (arXiv) | files under `root` | classes |
|---|---|---|---|
| `CifarC` | CIFAR-10-C, -100-C (1903.12261) | `<corruption>.npy` (five severities in a row), `labels.npy` | index |
| `MnistC` | MNIST-C (1906.02337) | `<corruption>/test_images.npy`, `test_labels.npy` | index |
| `CorruptedFolders` | ImageNet-C, Tiny-ImageNet-C (1903.12261) | `<corruption>/<1 to 5>/<wnid>/*` | wnid |
| `IndexFolders` | ImageNet-V2 (1902.10811) | `0/*` to `999/*` | index, in the order of the wnids |
| `ClassFolders` | ImageNet-A (1907.07174), -R (2006.16241), -Sketch (1905.13549) | `<wnid>/*` | wnid |

A corrupted set gives the mean over its corruptions and severities under its `name`, and `<name>/<corruption>`, all its
severities together. All are of equal size, so that mean is 1 - mCE where mCE is not divided by another network's.
ImageNet-A and -R have 200 of the classes: an answer is the top of those alone, as in their papers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate

from experiments.common_corruptions import NAMES as STANDARD
from experiments.folders import Listing, pictures
from experiments.parts import Joined, Part, Splits, hold_out
from experiments.streams import Arrays, Pictures, Stream

SEVERITIES = (1, 2, 3, 4, 5)
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


class OutOfDomain(ABC):
    """Further test sets.

    Args:
        name: of the set, and of its key in the configuration's `ood`.
        root: its folder.
        source: where it is to be had.
    """

    def __init__(self, name: str, root: str | None, source: str) -> None:
        self.name, self.source = name, source
        self._root = None if root is None else Path(root)

    @property
    def root(self) -> Path:
        """The folder.

        Raises:
            FileNotFoundError: none was given, or it is not there.
        """
        if self._root is None or not self._root.is_dir():
            looked = "" if self._root is None else f"no folder {self._root}; "
            raise FileNotFoundError(
                f"{looked}{self.name} wants ood.{self.name}.root=<folder>; get it from {self.source}"
            )
        return self._root

    @abstractmethod
    def sets(self, splits: Splits) -> dict[str, Part]:
        """Test sets by name, on the device of the data.

        Raises:
            FileNotFoundError: files that are not there; says where they were looked for.
            ValueError: files of another format, or classes or shapes that are not the data's.
        """

    def _absent(self, path: Path) -> FileNotFoundError:
        return FileNotFoundError(f"no {path}, which {self.name} has; unpack it again from {self.source}")

    def _named(self, parts: dict[str, Part]) -> dict[str, Part]:
        return {self.name: Joined(tuple(parts.values())), **{f"{self.name}/{key}": part for key, part in parts.items()}}


def sets(config: Mapping[str, Any] | Sequence[Any] | None, splits: Splits) -> dict[str, Part]:
    """The test sets of a configuration's `ood`, by name.

    Args:
        config: nodes with a `_target_`, by name or in a list; None: none.
        splits: the data that they go with.

    Raises:
        ValueError: two sets of one name, or sets that do not fit the data.
        FileNotFoundError: files that are not there.
    """
    found: dict[str, Part] = {}
    for node in () if config is None else config.values() if isinstance(config, Mapping) else config:
        given: OutOfDomain = instantiate(node)
        made = given.sets(splits)
        if found.keys() & made.keys():
            raise ValueError(f"ood has two sets with the name {given.name!r}; give one of them another name=")
        found |= made
    return found


def _severities(severities: Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(severities)
    if not chosen or not set(chosen) <= set(SEVERITIES) or len(set(chosen)) < len(chosen):
        raise ValueError(f"severities={list(chosen)}: wanted some of 1 to 5, each once")
    return chosen


class CifarC(OutOfDomain):
    """CIFAR-10-C or CIFAR-100-C, memory-mapped.

    Args:
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
        self.severities = _severities(severities)

    def sets(self, splits: Splits) -> dict[str, Part]:
        labels = _labels(self.root / "labels.npy", splits, self._absent(self.root / "labels.npy"))
        each, rest = divmod(len(labels), len(SEVERITIES))
        if rest or not each:
            raise ValueError(f"{self.root / 'labels.npy'} has {len(labels)} labels: wanted as many for each severity")
        rows = torch.cat([torch.arange((severity - 1) * each, severity * each) for severity in self.severities])
        parts = {}
        for corruption in self.corruptions:
            path = self.root / f"{corruption}.npy"
            parts[corruption] = _stream(path, labels, splits, self._absent(path))[rows]
        return self._named(parts)


class MnistC(OutOfDomain):
    """MNIST-C, memory-mapped.

    Args:
        corruptions: names of folders; None: the 15 of the paper.
    """

    def __init__(
        self, *, name: str = "mnist_c", root: str | None = None, corruptions: Sequence[str] | None = None
    ) -> None:
        super().__init__(name, root, "zenodo.org/records/3239543 (mnist_c.zip)")
        self.corruptions = tuple(MNIST_C if corruptions is None else corruptions)

    def sets(self, splits: Splits) -> dict[str, Part]:
        root = self.root / "mnist_c" if (self.root / "mnist_c").is_dir() else self.root
        parts = {}
        for corruption in self.corruptions:
            images, targets = (root / corruption / f"test_{kind}.npy" for kind in ("images", "labels"))
            labels = _labels(targets, splits, self._absent(targets))
            parts[corruption] = _stream(images, labels, splits, self._absent(images))
        return self._named(parts)


class Folders(OutOfDomain):
    """Folders of pictures.

    Args:
        size, resize: as of the data's pictures.
        images: of each set (of each corruption and severity), a fixed random choice; None: all.
    """

    def __init__(
        self, name: str, root: str | None, source: str, *, size: int, resize: int | None, images: int | None
    ) -> None:
        super().__init__(name, root, source)
        if images is not None and images < 1:
            raise ValueError(f"ood.{name}.images={images}: wanted a whole number of at least 1")
        self.size, self.resize, self.images = size, resize, images

    def _part(self, found: Listing, splits: Splits) -> Stream:
        channels, height, width = splits.train.shape
        if (height, width) != (self.size, self.size):
            raise ValueError(f"ood.{self.name}.size={self.size}: the data has {height} x {width}; give that size")
        order, _ = hold_out(len(found.paths), 0)
        rows = order[: self.images]
        labels = torch.tensor(found.labels)
        among = labels.unique()
        reader = Pictures(found.paths, size=self.size, resize=self.resize, channels=channels)
        restricted = None if len(among) == len(splits.classes) else among
        return Stream(reader, labels[rows], rows=rows, among=restricted).to(splits.train.device)

    def _known(self, folder: Path, splits: Splits, *, skip_unknown: bool = False) -> dict[str, int]:
        """The class folders in `folder` with their labels in the data."""
        names = sorted(each.name for each in folder.iterdir() if each.is_dir())
        known = {name: splits.classes.index(name) for name in names if name in splits.classes}
        unknown = [name for name in names if name not in known]
        if not known or (unknown and not skip_unknown):
            raise ValueError(
                f"{folder} has {len(unknown)} of {len(names)} classes ({', '.join(unknown[:3])}, ...) that the data, "
                f"with {', '.join(splits.classes[:3])}, ..., lacks"
                + (f"; ood.{self.name}.skip_unknown=true leaves them out" if known else "")
            )
        return known


class ClassFolders(Folders):
    """ImageNet-A, -R or -Sketch: a folder for each class, named as the data's is.

    Args:
        skip_unknown: leave out classes that the data does not have (such as most of ImageNet-R's for Tiny-ImageNet).
    """

    def __init__(
        self,
        *,
        name: str,
        root: str | None = None,
        size: int = 224,
        resize: int | None = None,
        images: int | None = None,
        skip_unknown: bool = False,
        source: str = "its authors' page",
    ) -> None:
        super().__init__(name, root, source, size=size, resize=resize, images=images)
        self.skip_unknown = skip_unknown

    def sets(self, splits: Splits) -> dict[str, Part]:
        found = pictures(self.root, self._known(self.root, splits, skip_unknown=self.skip_unknown))
        return {self.name: self._part(found, splits)}


class IndexFolders(Folders):
    """ImageNet-V2: a folder for each class, named by its index among the sorted classes.

    An index means something only where the data has all the classes.
    """

    def __init__(
        self,
        *,
        name: str = "imagenet_v2",
        root: str | None = None,
        size: int = 224,
        resize: int | None = None,
        images: int | None = None,
    ) -> None:
        super().__init__(
            name, root, "huggingface.co/datasets/vaishaal/ImageNetV2", size=size, resize=resize, images=images
        )

    def sets(self, splits: Splits) -> dict[str, Part]:
        names = {each.name for each in self.root.iterdir() if each.is_dir()}
        wanted = {str(index): index for index in range(len(splits.classes))}
        if names != wanted.keys():
            odd = sorted(names ^ wanted.keys())
            raise ValueError(
                f"{self.root} has {len(names)} folders, which differ in {', '.join(odd[:3])}, ... from the data's "
                f"indices 0 to {len(wanted) - 1}; its indices are those of the whole of ImageNet"
            )
        return {self.name: self._part(pictures(self.root, wanted), splits)}


class CorruptedFolders(Folders):
    """ImageNet-C or Tiny-ImageNet-C.

    Args:
        corruptions: names of folders; None: the 15 standard ones.
        severities: some of 1 to 5.
    """

    def __init__(
        self,
        *,
        name: str = "imagenet_c",
        root: str | None = None,
        size: int = 224,
        resize: int | None = None,
        images: int | None = None,
        corruptions: Sequence[str] | None = None,
        severities: Sequence[int] = SEVERITIES,
    ) -> None:
        super().__init__(
            name,
            root,
            "zenodo.org/records/2235448 (ImageNet-C) or 2536630 (Tiny-ImageNet-C)",
            size=size,
            resize=resize,
            images=images,
        )
        self.corruptions = tuple(STANDARD if corruptions is None else corruptions)
        self.severities = _severities(severities)

    def sets(self, splits: Splits) -> dict[str, Part]:
        parts: dict[str, Part] = {}
        for corruption in self.corruptions:
            # the archives are one a kind (noise, blur, ...), and some unpack each into a folder of its own
            places = [self.root / corruption, *sorted(self.root.glob(f"*/{corruption}"))]
            place = next((each for each in places if each.is_dir()), places[0])
            found = []
            for severity in self.severities:
                folder = place / str(severity)
                if not folder.is_dir():
                    raise self._absent(folder)
                found.append(self._part(pictures(folder, self._known(folder, splits)), splits))
            parts[corruption] = Joined(tuple(found)) if len(found) > 1 else found[0]
        return self._named(parts)


def _array(path: Path, absent: FileNotFoundError) -> np.ndarray:
    if not path.is_file():
        raise absent
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as an array ({error}); get it again") from error
    return array


def _labels(path: Path, splits: Splits, absent: FileNotFoundError) -> torch.Tensor:
    labels = _array(path, absent)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise ValueError(f"{path} has {labels.dtype} {labels.shape}: wanted whole numbers (N,)")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(splits.classes):
        raise ValueError(f"{path} has labels from {low} to {high}: the data has {len(splits.classes)} classes")
    return torch.from_numpy(labels.astype(np.int64))


def _stream(path: Path, labels: torch.Tensor, splits: Splits, absent: FileNotFoundError) -> Stream:
    array = _array(path, absent)
    if len(array) != len(labels):
        raise ValueError(f"{path} has {len(array)} images: there are {len(labels)} labels")
    try:
        reader = Arrays([array], channels_last=True, shape=splits.train.shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Stream(reader, labels.to(splits.train.device))
