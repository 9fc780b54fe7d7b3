"""ImageNet-A, -R, -Sketch, -V2, -C and Tiny-ImageNet-C, from folders of image files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.data.files import ImageFiles, LazyImageSet
from experiments.data.image_folders import list_images
from experiments.data.ood.base import Corrupted, OutOfDomain
from hard_aug.data import ConcatImageSet, ImageSet, Splits, hold_out
from hard_aug.data.image_files import list_class_folders
from hard_aug.utils.checks import check_integer


@dataclass(kw_only=True)
class Folders(OutOfDomain):
    """Folders of image files, read with the `size` and `resize` of the data.

    `images` is the number of images of each set (of each corruption and severity), a fixed random choice; None: all.
    """

    size: int = 224
    resize: int | None = None
    images: int | None = None

    def _image_set(self, folder: Path, classes: dict[str, int], splits: Splits) -> LazyImageSet:
        channels, height, width = splits.train.shape
        if (height, width) != (self.size, self.size):
            raise ValueError(f"ood.{self.name}.size={self.size}: the data has {height} x {width}; set that size")
        check_integer(**{f"ood.{self.name}.images": self.images})
        paths, targets = list_images(folder, classes)
        rows, labels = hold_out(len(paths), 0)[0][: self.images], torch.tensor(targets)
        present = labels.unique()
        subset = None if len(present) == len(splits.classes) else present
        reader = ImageFiles(paths, size=self.size, resize=self.resize, channels=channels)
        return LazyImageSet(reader, labels[rows], rows=rows, class_subset=subset).to(splits.train.device)

    def _known(self, folder: Path, splits: Splits, *, skip_unknown: bool = False) -> dict[str, int]:
        """Return the class folders in `folder` with their labels in the data."""
        names = list_class_folders(folder)
        known = {name: splits.classes.index(name) for name in names if name in splits.classes}
        unknown = [name for name in names if name not in known]
        if not known or (unknown and not skip_unknown):
            ours, advice = splits.classes[:3], f"; ood.{self.name}.skip_unknown=true leaves them out" if known else ""
            given = f"{folder} has {len(unknown)} of {len(names)} classes ({', '.join(unknown[:3])}, ...)"
            raise ValueError(f"{given} that the data, with {', '.join(ours)}, ..., lacks{advice}")
        return known


@dataclass(kw_only=True)
class ClassFolders(Folders):
    """ImageNet-A, -R or -Sketch: a folder for each class, named as in the data; `skip_unknown` leaves out others."""

    skip_unknown: bool = False

    def sets(self, splits: Splits) -> dict[str, ImageSet]:
        """See `OutOfDomain.sets`."""
        known = self._known(self.folder, splits, skip_unknown=self.skip_unknown)
        return {self.name: self._image_set(self.folder, known, splits)}


@dataclass(kw_only=True)
class IndexFolders(Folders):
    """ImageNet-V2: a folder for each class, named by its index among the sorted classes, of which the data has all."""

    name: str = "imagenet_v2"
    source: str = "huggingface.co/datasets/vaishaal/ImageNetV2"

    def sets(self, splits: Splits) -> dict[str, ImageSet]:
        """See `OutOfDomain.sets`."""
        names = set(list_class_folders(self.folder))
        expected = {str(index): index for index in range(len(splits.classes))}
        if names != expected.keys():
            odd = sorted(names ^ expected.keys())
            raise ValueError(
                f"{self.folder} has {len(names)} folders, which differ in {', '.join(odd[:3])}, ... from the data's "
                f"indices 0 to {len(expected) - 1}; its indices are those of the whole of ImageNet"
            )
        return {self.name: self._image_set(self.folder, expected, splits)}


@dataclass(kw_only=True)
class CorruptedFolders(Corrupted, Folders):
    """ImageNet-C or Tiny-ImageNet-C."""

    name: str = "imagenet_c"
    source: str = "zenodo.org/records/2235448 (ImageNet-C) or 2536630 (Tiny-ImageNet-C)"

    def sets(self, splits: Splits) -> dict[str, ImageSet]:
        """See `OutOfDomain.sets`."""
        parts = {}
        for corruption in self.corruptions:
            # there is an archive for each kind (noise, blur, ...), and some unpack each into its own folder
            places = [
                self.folder / corruption,
                *(self.folder / each / corruption for each in list_class_folders(self.folder)),
            ]
            place = next((each for each in places if each.is_dir()), places[0])
            found = []
            for folder in (place / str(severity) for severity in self.severities):
                if not folder.is_dir():
                    raise self._missing(folder)
                found.append(self._image_set(folder, self._known(folder, splits), splits))
            parts[corruption] = ConcatImageSet(found)
        return self._named(parts)
