"""Image sets that are read on demand: `ImageFiles` are decoded, an `Array` may be memory-mapped."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import center_crop

from hard_aug.data.image_files import open_image
from hard_aug.data.image_set import ImageSet

#: Largest size in bytes, as float32, of `images` of a lazy image set, and of a folder that is read into memory.
IN_MEMORY = 2 * 2**30
#: Number of images that are read at once when all are read, and maximum number of threads for these.
CHUNK, THREADS = 1000, 32

Shape = tuple[int, int, int]
#: Seed and number of a training batch, on which its random crops depend; None outside of training.
BatchKey = tuple[int, int] | None


@dataclass
class ImageFiles:
    """Image files, whose shorter side is resized to `resize` pixels (None: `size`), and the centre cropped to `size`.

    There are 1 (grey) or 3 `channels`; `random_crop`: training batches are random crops and flips (arXiv:1409.4842).
    Raises `ValueError` for other settings, and when it reads a file that cannot be decoded (see `open_image`).
    """

    paths: Sequence[str]
    size: int
    resize: int | None = None
    channels: int = 3
    random_crop: bool = False

    def __post_init__(self) -> None:
        size, resize = self.size, self.size if self.resize is None else self.resize
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels={self.channels}: expected 1 or 3")
        if size < 1 or resize < size:
            raise ValueError(f"data.size={size}, data.resize={resize}: expected pixels, 1 <= size <= resize")
        self.shape = (self.channels, size, size)
        convert = v2.RGB() if self.channels == 3 else v2.Grayscale()
        self._center = v2.Compose([v2.PILToTensor(), v2.Resize(resize), v2.CenterCrop(size), convert])
        self._random = v2.Compose([v2.PILToTensor(), v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), convert])

    def read(self, rows: Sequence[int], batch: BatchKey = None) -> Tensor:
        """Read the images of some rows, `(B, C, H, W)` uint8; random crops depend on `batch` and the row only."""
        if batch is None:
            with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
                images = list(pool.map(self._decode, rows))
        elif not self.random_crop:
            images = [self._decode(row) for row in rows]
        else:
            with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
                images = [self._decode(row, (*batch, row)) for row in rows]
        return torch.stack(images) if images else torch.empty(0, *self.shape, dtype=torch.uint8)

    def _decode(self, row: int, seed: Sequence[int] | None = None) -> Tensor:
        image = open_image(self.paths[row])
        if seed is None:
            return self._center(image)
        state = np.random.SeedSequence([number % 2**63 for number in seed]).generate_state(1, np.uint64)
        torch.default_generator.manual_seed(int(state[0]))
        return self._random(image)


class Array:
    """An array of images in memory or on disk, padded with zeros on all sides to `shape`, `(C, H, W)`, if one is given.

    It is uint8 `(N, C, H, W)`, or with `channels_last` `(N, H, W, C)` or `(N, H, W)`. Raises `ValueError`, which names
    the `path`, for another type or shape, and images that are larger than `shape` or of other channels.
    """

    def __init__(
        self, array: np.ndarray, path: Path, *, channels_last: bool = False, shape: Shape | None = None
    ) -> None:
        if array.dtype != np.uint8 or array.ndim not in ((3, 4) if channels_last else (4,)):
            expected = "(N, H, W, C) or (N, H, W)" if channels_last else "(N, C, H, W)"
            raise ValueError(f"{path} has {array.dtype} {array.shape}: expected uint8 {expected}")
        if channels_last:
            array = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)
        own = array.shape[1:]
        self.array, self.shape = array, shape or own
        if own[0] != self.shape[0] or own[1] > self.shape[1] or own[2] > self.shape[2]:
            raise ValueError(f"{path}: images of (C, H, W) = {own} do not fit into those of the data, {self.shape}")

    def read(self, rows: Sequence[int], batch: BatchKey = None) -> Tensor:
        """Read the images of some rows, `(B, C, H, W)` uint8; there are no random crops."""
        pixels = torch.from_numpy(self.array[np.asarray(rows, dtype=np.int64)])
        return center_crop(pixels, list(self.shape[1:])).contiguous()  # of a larger size: pads with zeros


Reader = ImageFiles | Array


class LazyImageSet(ImageSet):
    """The images in `rows`, `(N,)` int64 on the CPU (None: all), of a reader, read on demand, and their `labels`.

    Selections are lazy too; `materialize()` reads them, to the device of the labels.
    """

    def __init__(
        self, reader: Reader, labels: Tensor, *, rows: Tensor | None = None, class_subset: Tensor | None = None
    ) -> None:
        object.__setattr__(self, "labels", labels)  # a frozen field
        self.reader, self.class_subset = reader, class_subset
        self.rows = torch.arange(len(labels)) if rows is None else rows

    @property
    def shape(self) -> Shape:
        """See `ImageSet.shape`."""
        return self.reader.shape

    @property
    def nbytes(self) -> int:
        """Size of `images` as float32, in bytes."""
        return 4 * len(self) * math.prod(self.shape)

    @property
    def images(self) -> Tensor:  # a field of the base class, read on demand here
        """All images, `(N, C, H, W)`; raises `ValueError` if they take more than `IN_MEMORY` bytes."""
        if self.nbytes > IN_MEMORY:
            raise ValueError(
                f"{len(self)} images of {self.shape} take {self.nbytes / 2**30:.1f} GiB as float32, and this operation "
                "requires all of them at once; use fewer images (task.images=...), or set data.in_memory=true"
            )
        return self.read()

    def read(self) -> Tensor:
        """Read all images, `(N, C, H, W)` float32 in [0, 1] on the device, whatever their size."""
        images = torch.empty(len(self), *self.shape, device=self.device, dtype=torch.float32)
        for start in range(0, len(self), CHUNK):
            pixels = self.reader.read(self.rows[start : start + CHUNK].tolist())
            images[start : start + CHUNK] = pixels.to(self.device).to(torch.float32).div_(255)
        return images

    def to(self, device: torch.device) -> LazyImageSet:
        """See `ImageSet.to`."""
        subset = None if self.class_subset is None else self.class_subset.to(device)
        return LazyImageSet(self.reader, self.labels.to(device), rows=self.rows, class_subset=subset)

    def select(self, rows: Tensor | slice) -> LazyImageSet:
        """See `ImageSet.select`."""
        ours, labels = (rows.cpu(), rows.to(self.device)) if isinstance(rows, Tensor) else (rows, rows)
        return LazyImageSet(self.reader, self.labels[labels], rows=self.rows[ours], class_subset=self.class_subset)

    def materialize(self) -> ImageSet:
        """See `ImageSet.materialize`."""
        return ImageSet(self.images, self.labels)
