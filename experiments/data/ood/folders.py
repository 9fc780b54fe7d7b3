"""ImageNet-A, -R, -Sketch, -V2, -C and Tiny-ImageNet-C, from folders of image files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.data.image_folders import Listing, list_images
from experiments.data.ood.base import SEVERITIES, OutOfDomain, check_severities
from experiments.data.streams import ImageFiles, LazyImageSet
from hard_aug.data import ConcatImageSet, ImageSet, Splits, hold_out
from hard_aug.evaluation.corruptions import NAMES as STANDARD
from hard_aug.utils.checks import check_integer


class Folders(OutOfDomain):
    """Folders of image files.

    Args:
        name: of the set.
        root: folder of the set.
        source: where to get it.
        size: as of the data's images.
        resize: as of the data's images.
        images: number of images of each set (of each corruption and severity), a fixed random choice; None: all.
    """

    def __init__(
        self, name: str, root: str | None, source: str, *, size: int, resize: int | None, images: int | None
    ) -> None:
        super().__init__(name, root, source)
        check_integer(**{f"ood.{name}.images": images})
        self.size, self.resize, self.images = size, resize, images

    def _image_set(self, found: Listing, splits: Splits) -> LazyImageSet:
        channels, height, width = splits.train.shape
        if (height, width) != (self.size, self.size):
            raise ValueError(f"ood.{self.name}.size={self.size}: the data has {height} x {width}; set that size")
        order, _ = hold_out(len(found.paths), 0)
        rows = order[: self.images]
        labels = torch.tensor(found.labels)
        present = labels.unique()
        subset = None if len(present) == len(splits.classes) else present
        reader = ImageFiles(found.paths, size=self.size, resize=self.resize, channels=channels)
        return LazyImageSet(reader, labels[rows], rows=rows, class_subset=subset).to(splits.train.device)

    def _known(self, folder: Path, splits: Splits, *, skip_unknown: bool = False) -> dict[str, int]:
        """Return the class folders in `folder` with their labels in the data."""
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
    """ImageNet-A, -R or -Sketch: a folder for each class, named as in the data.

    Args:
        name: of the set.
        root: folder of the set.
        size: as of the data's images.
        resize: as of the data's images.
        images: number of images, a fixed random choice; None: all.
        skip_unknown: leave out classes that the data does not have (such as most of ImageNet-R's for Tiny-ImageNet).
        source: where to get it.
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

    def sets(self, splits: Splits) -> dict[str, ImageSet]:
        """See `OutOfDomain.sets`."""
        found = list_images(self.root, self._known(self.root, splits, skip_unknown=self.skip_unknown))
        return {self.name: self._image_set(found, splits)}


class IndexFolders(Folders):
    """ImageNet-V2: a folder for each class, named by its index among the sorted classes.

    An index is meaningful only if the data has all the classes.

    Args:
        name: of the set.
        root: folder of the set.
        size: as of the data's images.
        resize: as of the data's images.
        images: number of images, a fixed random choice; None: all.
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

    def sets(self, splits: Splits) -> dict[str, ImageSet]:
        """See `OutOfDomain.sets`."""
        names = {each.name for each in self.root.iterdir() if each.is_dir()}
        expected = {str(index): index for index in range(len(splits.classes))}
        if names != expected.keys():
            odd = sorted(names ^ expected.keys())
            raise ValueError(
                f"{self.root} has {len(names)} folders, which differ in {', '.join(odd[:3])}, ... from the data's "
                f"indices 0 to {len(expected) - 1}; its indices are those of the whole of ImageNet"
            )
        return {self.name: self._image_set(list_images(self.root, expected), splits)}


class CorruptedFolders(Folders):
    """ImageNet-C or Tiny-ImageNet-C.

    Args:
        name: of the set.
        root: folder of the set.
        size: as of the data's images.
        resize: as of the data's images.
        images: number of images of each corruption and severity, a fixed random choice; None: all.
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
        self.severities = check_severities(severities)

    def sets(self, splits: Splits) -> dict[str, ImageSet]:
        """See `OutOfDomain.sets`."""
        parts: dict[str, ImageSet] = {}
        for corruption in self.corruptions:
            # there is an archive for each kind (noise, blur, ...), and some unpack each into its own folder
            places = [self.root / corruption, *sorted(self.root.glob(f"*/{corruption}"))]
            place = next((each for each in places if each.is_dir()), places[0])
            found = []
            for severity in self.severities:
                folder = place / str(severity)
                if not folder.is_dir():
                    raise self._missing(folder)
                found.append(self._image_set(list_images(folder, self._known(folder, splits)), splits))
            parts[corruption] = ConcatImageSet(found) if len(found) > 1 else found[0]
        return self._named(parts)
