"""Generated hard images in memory, with what is known about each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

import torch
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True, eq=False, repr=False)
class HardImages(Dataset[Any]):
    """Images that a generator made to be hard for a student, as `ShardWriter` stores them.

    `hard[3]` is one pair `(image, label)`, the image `(C, H, W)` float32 in [0, 1]. `hard[rows]`, with a slice or a
    tensor, is `hard.select(rows)`, rejected images included; select the accepted ones with `hard[hard.accepted]`.

    Attributes:
        images: `(N, C, H, W)` uint8, after rounding to 8 bits; C is 1 or 3.
        labels: `(N,)` int64 in [0, K).
        soft_labels: `(N, K)` float32, probabilities predicted by the teacher.
        seeds: `(N,)` int64, seed of each image's noise.
        scores_before: `(N,)` float32, without the search.
        scores_after: `(N,)` float32, with the search.
        accepted: `(N,)` bool.
        source: `(N,)` int64, index of the real image that the search started from; -1: none.

    Raises:
        TypeError: a dtype other than these.
        ValueError: shapes or labels that do not fit, or an accepted image whose score is not finite or whose soft
            labels are not probabilities.

    Example:
        >>> import torch
        >>> from hard_aug.data import HardImages
        >>> hard = HardImages(
        ...     images=torch.full((3, 1, 8, 8), 255, dtype=torch.uint8),
        ...     labels=torch.tensor([0, 1, 1]),
        ...     soft_labels=torch.full((3, 2), 0.5),
        ...     seeds=torch.arange(3),
        ...     scores_before=torch.zeros(3),
        ...     scores_after=torch.ones(3),
        ...     accepted=torch.tensor([True, False, True]),
        ...     source=torch.full((3,), -1),
        ... )
        >>> hard
        HardImages(3 images, (1, 8, 8), 2 accepted)
        >>> image, label = hard[2]
        >>> float(image.mean()), label
        (1.0, 1)
        >>> hard[hard.accepted].labels
        tensor([0, 1])
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor
    seeds: Tensor
    scores_before: Tensor
    scores_after: Tensor
    accepted: Tensor
    source: Tensor

    def __post_init__(self) -> None:
        dtypes = {"images": torch.uint8, "accepted": torch.bool}
        dtypes |= dict.fromkeys(("labels", "seeds", "source"), torch.int64)
        for field in fields(self):
            given, expected = getattr(self, field.name), dtypes.get(field.name, torch.float32)
            if given.dtype != expected:
                raise TypeError(f"{field.name} is {given.dtype}: expected {expected}; convert with .to({expected})")
            axes = {"images": 4, "soft_labels": 2}.get(field.name, 1)
            if given.ndim != axes or len(given) != len(self.images):
                raise ValueError(
                    f"{field.name} has the shape {tuple(given.shape)}: expected {axes} axes, {len(self.images)} rows"
                )
        if self.images.shape[1] not in (1, 3):
            raise ValueError(f"images of {self.images.shape[1]} channels: expected (N, C, H, W) with C = 1 or 3")
        if not len(self):
            return
        low, high, classes = int(self.labels.min()), int(self.labels.max()), self.soft_labels.shape[1]
        if low < 0 or high >= classes:
            raise ValueError(f"labels from {low} to {high}: expected 0 to {classes - 1}, the columns of soft_labels")
        kept = self.soft_labels[self.accepted]
        if not bool(((kept >= 0) & (kept <= 1.01)).all() and ((kept.sum(1) - 1).abs() < 0.01).all()):
            raise ValueError("soft_labels of accepted images are not probabilities; pass the softmax of the logits")
        if not bool(self.scores_after[self.accepted].isfinite().all()):  # those before may not have been measured
            raise ValueError("accepted images have scores that are not finite; reject them: accepted=False")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images, {self.shape}, {int(self.accepted.sum())} accepted)"

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...
    @overload
    def __getitem__(self, index: Tensor | slice) -> HardImages: ...
    def __getitem__(self, index: int | Tensor | slice) -> Any:
        if isinstance(index, slice) or (isinstance(index, Tensor) and index.ndim):
            return self.select(index)
        row = range(len(self))[index]
        return self.images[row].float() / 255, int(self.labels[row])

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of each image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device) -> HardImages:
        """Move to a device."""
        return HardImages(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def select(self, rows: Tensor | slice) -> HardImages:
        """Return some of the images with all that is known about them.

        Args:
            rows: a slice, integers `(M,)` or a boolean mask `(N,)`.
        """
        return HardImages(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @staticmethod
    def cat(parts: Sequence[HardImages]) -> HardImages:
        """Concatenate hard images of one shape and number of classes.

        Args:
            parts: at least one.
        """
        return HardImages(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(HardImages)})


@dataclass(frozen=True, eq=False)
class HardImageStore:
    """What `read_shards` reads from a folder.

    Attributes:
        images: the images.
        classes: name of each class, in the order of the labels.
        identity: the configuration that generated them.

    Example:
        >>> import tempfile, torch
        >>> from hard_aug.data import HardImages, ShardWriter, read_shards
        >>> hard = HardImages(
        ...     images=torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
        ...     labels=torch.tensor([0, 1]),
        ...     soft_labels=torch.full((2, 2), 0.5),
        ...     seeds=torch.arange(2),
        ...     scores_before=torch.zeros(2),
        ...     scores_after=torch.ones(2),
        ...     accepted=torch.tensor([True, False]),
        ...     source=torch.full((2,), -1),
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ShardWriter(folder, identity={"seed": 0}, classes=("cat", "dog")).write(0, hard)
        ...     read_shards(folder)
        HardImageStore(images=HardImages(1 images, (1, 8, 8), 1 accepted), classes=('cat', 'dog'), identity={'seed': 0})
    """

    images: HardImages
    classes: tuple[str, ...]
    identity: dict[str, Any]
