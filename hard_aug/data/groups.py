"""Images with a group annotation: a class, and a spurious attribute that correlates with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hard_aug.data.image_set import ImageSet, Splits


@dataclass(frozen=True, eq=False, repr=False)
class Grouped(ImageSet):
    """An image set in which each image also has a spurious attribute.

    As a `torch.utils.data.Dataset` it holds `(image, label, group)`.

    Attributes:
        images: `(N, C, H, W)` float32 in [0, 1].
        labels: `(N,)` int64, index into `classes`.
        spurious: `(N,)` int64, index into `attributes`.
        classes: name of each class, each once.
        attributes: name of each attribute, each once.

    Raises:
        ValueError: unequal lengths, other types, a repeated name, or (on the CPU, where checking does not synchronise)
            an index without a name.

    Example:
        >>> import torch
        >>> from hard_aug.data import Grouped
        >>> birds = Grouped(
        ...     images=torch.rand(4, 3, 8, 8),
        ...     labels=torch.tensor([0, 0, 1, 1]),
        ...     spurious=torch.tensor([0, 0, 0, 1]),
        ...     classes=("landbird", "waterbird"),
        ...     attributes=("land", "water"),
        ... )
        >>> birds.counts()
        {'landbird/land': 2, 'waterbird/land': 1, 'waterbird/water': 1}
        >>> image, label, group = birds[3]
        >>> label, birds.group_names[group]
        (1, 'waterbird/water')
    """

    spurious: Tensor
    classes: tuple[str, ...]
    attributes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or not self.images.is_floating_point():
            raise ValueError(f"images {self.images.dtype} {tuple(self.images.shape)}: expected floats (N, C, H, W)")
        for field, names in (("labels", self.classes), ("spurious", self.attributes)):
            indices: Tensor = getattr(self, field)
            if indices.dtype != torch.int64 or indices.shape != self.images.shape[:1]:
                raise ValueError(
                    f"{field} {indices.dtype} {tuple(indices.shape)}: expected int64 ({len(self.images)},)"
                )
            if len(set(names)) != len(names) or not names:
                raise ValueError(f"names of {field}: expected at least one, each once, got {names}")
            if indices.device.type == "cpu" and len(indices):
                low, high = int(indices.min()), int(indices.max())
                if low < 0 or high >= len(names):
                    raise ValueError(f"{field} from {low} to {high}: expected 0 to {len(names) - 1}, for {names}")

    @property
    def group(self) -> Tensor:
        """`(N,)` int64: label * (number of attributes) + attribute."""
        return self.labels * len(self.attributes) + self.spurious

    @property
    def group_names(self) -> tuple[str, ...]:
        """`class/attribute` of each group, in the order of `group`, including groups without an image."""
        return tuple(f"{name}/{attribute}" for name in self.classes for attribute in self.attributes)

    def counts(self) -> dict[str, int]:
        """Return the number of images of each group that has any."""
        counted = torch.bincount(self.group, minlength=len(self.group_names)).tolist()
        return {name: count for name, count in zip(self.group_names, counted, strict=True) if count}

    def to(self, device: torch.device) -> Grouped:
        """See `ImageSet.to`."""
        return Grouped(
            self.images.to(device), self.labels.to(device), self.spurious.to(device), self.classes, self.attributes
        )

    def select(self, rows: Tensor | slice) -> Grouped:
        """See `ImageSet.select`."""
        return Grouped(self.images[rows], self.labels[rows], self.spurious[rows], self.classes, self.attributes)

    def _sample(self, row: int) -> tuple[Any, ...]:
        one = self.select(slice(row, row + 1))
        return one.images[0], int(one.labels[0]), int(one.group[0])


@dataclass(frozen=True, eq=False)
class GroupedSplits(Splits):
    """Training, validation and test images of a benchmark of spurious features.

    Attributes:
        train: training images.
        validation: images for choosing settings.
        test: test images.
        classes: name of each class.
        attributes: name of each spurious attribute.

    Example:
        >>> import torch
        >>> from hard_aug.data import Grouped, GroupedSplits
        >>> names = (("landbird", "waterbird"), ("land", "water"))
        >>> birds = Grouped(torch.rand(4, 3, 8, 8), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), *names)
        >>> splits = GroupedSplits(birds, birds[slice(0, 2)], birds[slice(2, 4)], *names)
        >>> splits.test
        Grouped(2 images, (3, 8, 8))
    """

    train: Grouped
    validation: Grouped
    test: Grouped
    classes: tuple[str, ...]
    attributes: tuple[str, ...]

    def to(self, device: torch.device) -> GroupedSplits:
        """See `Splits.to`."""
        train, validation, test = (part.to(device) for part in (self.train, self.validation, self.test))
        return GroupedSplits(train, validation, test, self.classes, self.attributes)
