"""Labelled images and their training, validation and test splits.

| class | images |
|---|---|
| `ImageSet` | a tensor in memory |
| `ConcatImageSet` | several image sets, one after another |

Each is a map-style `torch.utils.data.Dataset` of `(image, label)` pairs, for a `DataLoader`. Selecting many rows at
once, with a slice or a tensor, gives another image set and is much faster than collating pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.utils.data import Dataset

#: Seed of the fixed permutation that holds the validation images out of the training images, the same in every run.
SPLIT_SEED = 20230524


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet(Dataset[Any]):
    """Labelled images in memory, and the base class of all image sets.

    `images[3]` is one pair `(image, label)`: `(C, H, W)` float32 and an int. `images[rows]`, with a slice or a tensor,
    is the image set `images.select(rows)`.

    Attributes:
        images: `(N, C, H, W)` float32 in [0, 1].
        labels: `(N,)` int64.
        class_subset: classes, `(S,)` int64, among which a prediction is the top one, if a subclass covers only some;
            None: all.

    Raises:
        ValueError: images that are not 4-D, or another number of labels.

    Example:
        >>> import torch
        >>> from hard_aug.data import ImageSet
        >>> digits = ImageSet(torch.rand(10, 1, 28, 28), torch.arange(10))
        >>> image, label = digits[3]
        >>> tuple(image.shape), label
        ((1, 28, 28), 3)
        >>> digits[torch.tensor([0, 4])]
        ImageSet(2 images, (1, 28, 28))
        >>> loader = torch.utils.data.DataLoader(digits, batch_size=5)
        >>> [labels.tolist() for images, labels in loader]
        [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    """

    images: Tensor
    labels: Tensor
    class_subset: ClassVar[Tensor | None] = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.labels.shape != self.images.shape[:1]:
            shapes = f"images {tuple(self.images.shape)}, labels {tuple(self.labels.shape)}"
            raise ValueError(f"{shapes}: expected (N, C, H, W) and (N,)")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images, {self.shape})"

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, index: Tensor | slice) -> ImageSet: ...
    def __getitem__(self, index: int | Tensor | slice) -> Any:
        if isinstance(index, slice) or (isinstance(index, Tensor) and index.ndim):
            return self.select(index)
        return self._sample(range(len(self))[index])

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of each image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self.labels.device

    def to(self, device: torch.device) -> ImageSet:
        """Move to a device."""
        return ImageSet(self.images.to(device), self.labels.to(device))

    def select(self, rows: Tensor | slice) -> ImageSet:
        """Return some of the images.

        Args:
            rows: a slice, integers `(M,)` or a boolean mask `(N,)`.
        """
        return ImageSet(self.images[rows], self.labels[rows])

    def materialize(self) -> ImageSet:
        """Return a set whose `images` are in memory."""
        return self

    def _sample(self, row: int) -> tuple[Any, ...]:
        """Return one sample of the data set, for a row in [0, N)."""
        one = self.select(slice(row, row + 1)).materialize()
        return one.images[0], int(one.labels[0])


class ConcatImageSet(ImageSet):
    """Image sets one after another.

    Args:
        parts: image sets of one shape, on one device.

    Raises:
        ValueError: no parts, or parts of different shapes.

    Example:
        >>> import torch
        >>> from hard_aug.data import ConcatImageSet, ImageSet
        >>> both = ConcatImageSet([ImageSet(torch.zeros(n, 3, 8, 8), torch.arange(n)) for n in (2, 5)])
        >>> both
        ConcatImageSet(7 images, (3, 8, 8))
        >>> both[slice(1, 4)].labels
        tensor([1, 0, 1])
    """

    def __init__(self, parts: Sequence[ImageSet]) -> None:
        shapes = {part.shape for part in parts}
        if len(shapes) != 1:
            raise ValueError(f"parts of shapes {sorted(shapes)}: expected at least one part, all of the same shape")
        self.parts = tuple(parts)
        object.__setattr__(self, "labels", torch.cat([part.labels for part in parts]))  # a frozen field

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `ImageSet.shape`."""
        return self.parts[0].shape

    @property
    def images(self) -> Tensor:  # a field of the base class, concatenated on demand here
        """All images, `(N, C, H, W)`."""
        return torch.cat([part.materialize().images for part in self.parts])

    def to(self, device: torch.device) -> ConcatImageSet:
        """See `ImageSet.to`."""
        return ConcatImageSet([part.to(device) for part in self.parts])

    def select(self, rows: Tensor | slice) -> ImageSet:
        """See `ImageSet.select`; the result is in memory."""
        chosen = torch.arange(len(self), device="cpu")[rows.cpu() if isinstance(rows, Tensor) else rows]
        images = torch.empty(len(chosen), *self.shape, device=self.device, dtype=torch.float32)
        start = 0
        for part in self.parts:
            here = (chosen >= start) & (chosen < start + len(part))
            if bool(here.any()):
                local = (chosen[here] - start).to(part.device)
                images[here.to(self.device)] = part.select(local).materialize().images
            start += len(part)
        return ImageSet(images, self.labels[chosen.to(self.device)])

    def materialize(self) -> ImageSet:
        """See `ImageSet.materialize`."""
        return ImageSet(self.images, self.labels)

    def _sample(self, row: int) -> tuple[Any, ...]:
        for part in self.parts:
            if row < len(part):
                return part[row]
            row -= len(part)
        raise IndexError(f"row {row} beyond the last image")


@dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and test images of a data set.

    Attributes:
        train: training images.
        validation: images for choosing settings.
        test: test images.
        classes: name of each class, in the order of the labels.

    Example:
        >>> import torch
        >>> from hard_aug.data import ImageSet, Splits, hold_out
        >>> images = ImageSet(torch.rand(20, 1, 8, 8), torch.arange(20) % 2)
        >>> kept, held_out = hold_out(len(images), 5)
        >>> Splits(images[kept], images[held_out], images, classes=("cat", "dog")).validation
        ImageSet(5 images, (1, 8, 8))
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: tuple[str, ...]

    def to(self, device: torch.device) -> Splits:
        """Move all images to a device."""
        return Splits(self.train.to(device), self.validation.to(device), self.test.to(device), self.classes)


def hold_out(count: int, held: int) -> tuple[Tensor, Tensor]:
    """Split `count` rows at random, the same way in every run.

    Args:
        count: number of rows.
        held: how many of them are held out.

    Returns:
        The rows that stay, `(count - held,)`, and those held out, `(held,)`, both in a fixed shuffled order.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED), device="cpu")
    return order[held:], order[:held]
