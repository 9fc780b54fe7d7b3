"""Image sets that are read on demand: image files, and arrays on disk.

| reader | images | read by |
|---|---|---|
| `ImageFiles` | files, decoded and cropped | a pool of threads, the next batch ahead of time |
| `Arrays` | uint8 arrays, such as memory-mapped `.npy` files | indexing |

Selections of a `LazyImageSet` are lazy too; `materialize()` reads them. Random crops depend only on the seed, the
number of the batch and the image, so a resumed run sees the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from hard_aug.data.image_set import ImageSet

#: Largest size in bytes, as float32, of `images` of a lazy image set, and of a folder that is read into memory.
IN_MEMORY = 2 * 2**30
#: Number of images that are read at once when all are read.
CHUNK = 1000
#: Ranges of RandomResizedCrop (Szegedy et al., arXiv:1409.4842): fraction of the area, and aspect ratio.
CROP_AREA, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)

#: Seed of the random crops: the seed of the run and the number of the batch; None: centre crops.
CropSeed = tuple[int, int] | None


class Reader(Protocol):
    """Source of the images of a `LazyImageSet`."""

    shape: tuple[int, int, int]

    def read(self, rows: Sequence[int], crop_seed: CropSeed) -> Tensor:
        """Read the images of some rows, `(B, C, H, W)` uint8."""

    def prefetch(self, rows: Sequence[int], crop_seed: CropSeed) -> None:
        """Announce that these are read next."""


class LazyImageSet(ImageSet):
    """An image set that is read on demand.

    Args:
        reader: of all images.
        labels: `(N,)` int64, of the images of this set, on the device of the batches.
        rows: `(N,)` int64 on the CPU, which of the reader's images these are; None: all.
        class_subset: classes to which predictions are restricted; None: all.
        crop_seed: seed of the random crops; None: centre crops.
    """

    def __init__(
        self,
        reader: Reader,
        labels: Tensor,
        *,
        rows: Tensor | None = None,
        class_subset: Tensor | None = None,
        crop_seed: CropSeed = None,
    ) -> None:
        object.__setattr__(self, "labels", labels)  # a frozen field
        self.reader, self._class_subset, self._crop_seed = reader, class_subset, crop_seed
        self._rows = torch.arange(len(labels)) if rows is None else rows

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `ImageSet.shape`."""
        return self.reader.shape

    @property
    def class_subset(self) -> Tensor | None:
        """See `ImageSet.class_subset`."""
        return self._class_subset

    @property
    def nbytes(self) -> int:
        """Size of `images` as float32, in bytes."""
        return 4 * len(self) * math.prod(self.shape)

    @property
    def images(self) -> Tensor:  # a field of the base class, read on demand here
        """All images, `(N, C, H, W)`.

        Raises:
            ValueError: more than `IN_MEMORY`, or a file that cannot be decoded.
        """
        if self.nbytes > IN_MEMORY:
            raise ValueError(
                f"{len(self)} images of {self.shape} take {self.nbytes / 2**30:.1f} GiB as float32, and this operation "
                "requires all of them at once; use fewer images (task.images=...), or set data.in_memory=true"
            )
        return self.read()

    def read(self) -> Tensor:
        """Read all images, `(N, C, H, W)` float32 in [0, 1] on the device, whatever their size."""
        images = torch.empty(len(self), *self.shape, device=self.device)
        for start in range(0, len(self), CHUNK):
            pixels = self.reader.read(self._rows[start : start + CHUNK].tolist(), self._crop_seed)
            images[start : start + CHUNK] = pixels.to(self.device).to(torch.float32).div_(255)
        return images

    def to(self, device: torch.device) -> LazyImageSet:
        """See `ImageSet.to`."""
        subset = None if self._class_subset is None else self._class_subset.to(device)
        return self._with(labels=self.labels.to(device), class_subset=subset)

    def select(self, rows: Tensor | slice) -> LazyImageSet:
        """See `ImageSet.select`."""
        labels = self.labels[rows.to(self.device) if isinstance(rows, Tensor) else rows]
        return self._with(labels=labels, rows=self._rows_at(rows))

    def view(self, seed: int, number: int) -> LazyImageSet:
        """See `ImageSet.view`."""
        return self._with(crop_seed=(seed, number))

    def prefetch(self, rows: Tensor | slice) -> None:
        """See `ImageSet.prefetch`."""
        self.reader.prefetch(self._rows_at(rows).tolist(), self._crop_seed)

    def materialize(self) -> ImageSet:
        """See `ImageSet.materialize`."""
        return ImageSet(self.images, self.labels)

    def _rows_at(self, rows: Tensor | slice) -> Tensor:
        return self._rows[rows.cpu() if isinstance(rows, Tensor) else rows]

    def _with(self, **changes: Any) -> LazyImageSet:
        settings = {"rows": self._rows, "class_subset": self._class_subset, "crop_seed": self._crop_seed}
        return LazyImageSet(self.reader, **{"labels": self.labels, **settings, **changes})


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(32, os.cpu_count() or 1), thread_name_prefix="image-files")


class ImageFiles:
    """Image files, decoded to one size.

    Args:
        paths: of the files.
        size: height and width of the result, pixels.
        resize: length of the shorter side before the centre crop, pixels; None: `size`.
        channels: 1 (grey) or 3.
        random_crop: with a crop seed, take a random crop (`CROP_AREA`, `CROP_RATIO`) and a random flip in place of the
            centre crop.

    Raises:
        ValueError: an invalid size or number of channels; or later, a file that cannot be decoded.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        size: int,
        resize: int | None = None,
        channels: int = 3,
        random_crop: bool = False,
    ) -> None:
        resize = size if resize is None else resize
        if channels not in (1, 3):
            raise ValueError(f"data.channels={channels}: expected 1 or 3")
        if size < 1 or resize < size:
            raise ValueError(f"data.size={size}, data.resize={resize}: expected pixels, 1 <= size <= resize")
        self.paths, self.size, self.random_crop = paths, size, random_crop
        self.shape = (channels, size, size)
        self._convert = v2.RGB() if channels == 3 else v2.Grayscale()
        self._center_crop = v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(size), self._convert])
        self._ahead: dict[tuple[int, CropSeed], Future[Tensor]] = {}

    def read(self, rows: Sequence[int], crop_seed: CropSeed) -> Tensor:
        """See `Reader.read`."""
        if not rows:
            return torch.empty(0, *self.shape, dtype=torch.uint8)
        seed = crop_seed if self.random_crop else None
        futures = [self._ahead.pop((row, seed), None) or _pool().submit(self._decode, row, seed) for row in rows]
        return torch.stack([future.result() for future in futures])

    def prefetch(self, rows: Sequence[int], crop_seed: CropSeed) -> None:
        """See `Reader.prefetch`."""
        for future in self._ahead.values():  # announced and never read
            future.cancel()
        seed = crop_seed if self.random_crop else None
        self._ahead = {(row, seed): _pool().submit(self._decode, row, seed) for row in rows}

    def _decode(self, row: int, crop_seed: CropSeed) -> Tensor:
        path = self.paths[row]
        try:
            with Image.open(path) as file:
                image = functional.pil_to_tensor(file.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be decoded as an image ({error}); repair or remove it") from error
        if crop_seed is None:
            return self._center_crop(image)
        seed, number = crop_seed
        return self._random_crop(image, np.random.default_rng([seed % 2**63, number, row]))

    def _random_crop(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        # torchvision's own transform draws from the global generator, in the order in which threads arrive
        height, width = image.shape[-2:]
        top, left, tall, wide = crop_box(height, width, generator)
        pixels = functional.resized_crop(image, top, left, tall, wide, [self.size, self.size], antialias=True)
        return self._convert(functional.horizontal_flip(pixels) if generator.random() < 0.5 else pixels)


def crop_box(height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw top, left, height and width of a random crop as torchvision's RandomResizedCrop does."""
    for _ in range(10):
        area = height * width * generator.uniform(*CROP_AREA)
        ratio = math.exp(generator.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        tall, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < tall <= height and 0 < wide <= width:
            top, left = generator.integers(height - tall + 1), generator.integers(width - wide + 1)
            return int(top), int(left), tall, wide
    tall, wide = height, width
    if width / height < CROP_RATIO[0]:
        tall = round(width / CROP_RATIO[0])
    elif width / height > CROP_RATIO[1]:
        wide = round(height * CROP_RATIO[1])
    return (height - tall) // 2, (width - wide) // 2, tall, wide


class Arrays:
    """Arrays of images, one after another; memory-mapped arrays stay on disk.

    Args:
        arrays: uint8, `(N, C, H, W)`, or `(N, H, W, C)` or `(N, H, W)` with `channels_last`.
        channels_last: position of the channels.
        shape: `(C, H, W)` that images are padded to with zeros on all sides; None: no padding.

    Raises:
        ValueError: no arrays, another type or shape, or images that are larger than `shape` or of other channels.
    """

    def __init__(
        self, arrays: Sequence[np.ndarray], *, channels_last: bool = False, shape: tuple[int, int, int] | None = None
    ) -> None:
        given = {(array.dtype.name, array.ndim, array.shape[1:]) for array in arrays}
        if len(given) != 1:
            raise ValueError(f"arrays of {sorted(given)}: expected at least one, all of one type and shape")
        kind, axes, rest = given.pop()
        if kind != "uint8" or axes not in ((3, 4) if channels_last else (4,)):
            expected = "(N, H, W, C) or (N, H, W)" if channels_last else "(N, C, H, W)"
            raise ValueError(f"an array of {kind} (N, {', '.join(map(str, rest))}): expected uint8 {expected}")
        own = (1, *rest) if axes == 3 else (rest[2], *rest[:2]) if channels_last else rest
        self.shape: tuple[int, int, int] = own if shape is None else shape
        if own[0] != self.shape[0] or own[1] > self.shape[1] or own[2] > self.shape[2]:
            raise ValueError(f"images of (C, H, W) = {own}: the data has {self.shape}, which they do not fit into")
        self._arrays, self._last, self._grey = arrays, channels_last, axes == 3
        self._ends = np.cumsum([len(array) for array in arrays])
        top, left = (self.shape[1] - own[1]) // 2, (self.shape[2] - own[2]) // 2
        self._padding = (left, self.shape[2] - own[2] - left, top, self.shape[1] - own[1] - top)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, rows: Sequence[int], crop_seed: CropSeed) -> Tensor:
        """See `Reader.read`; there are no random crops."""
        chosen = np.asarray(rows, dtype=np.int64)
        which = np.searchsorted(self._ends, chosen, side="right")
        pixels = np.empty((len(chosen), *self._arrays[0].shape[1:]), dtype=np.uint8)
        for number in np.unique(which):
            here = which == number
            start = self._ends[number] - len(self._arrays[number])
            pixels[here] = self._arrays[number][chosen[here] - start]
        images = torch.from_numpy(pixels)
        images = images[:, None] if self._grey else images.permute(0, 3, 1, 2) if self._last else images
        return F.pad(images, self._padding).contiguous()

    def prefetch(self, rows: Sequence[int], crop_seed: CropSeed) -> None:
        """Do nothing: the operating system reads ahead."""
