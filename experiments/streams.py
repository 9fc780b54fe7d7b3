"""Images that stay where they are until a batch asks for them: folders of pictures, arrays on disk.

| reader | images | read by |
|---|---|---|
| `Pictures` | files, decoded and cropped | a pool of threads, the next batch ahead of time |
| `Arrays` | uint8 arrays, such as memory-mapped `.npy` files | indexing |

A `Stream` is a `Part`: slices and hold-outs of it are streams too, and `in_memory()` reads. What training sees of a
picture depends on the seed, the number of the batch and the picture alone, so a resumed run sees the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from experiments.parts import Part

#: Bytes, as float32, that `images` of a stream may take, and up to which folders are read into memory.
IN_MEMORY = 2 * 2**30
#: Images that are read at once where everything is read.
CHUNK = 1000
#: Of RandomResizedCrop (Szegedy et al., arXiv:1409.4842): shares of the area, and ratios of the sides.
CROP_AREA, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)

#: Which random crop: the seed and the number of the batch; None: the centre.
Draw = tuple[int, int] | None


class Reader(Protocol):
    """What a stream reads from."""

    shape: tuple[int, int, int]

    def read(self, rows: Sequence[int], draw: Draw) -> Tensor:
        """Images of those rows, `(B, C, H, W)` uint8."""

    def prefetch(self, rows: Sequence[int], draw: Draw) -> None:
        """Say that these are asked for next."""


class Stream(Part):
    """Images that are read when they are asked for.

    Args:
        reader: of all images.
        labels: `(N,)` int64, of those of this stream; their device is the batches'.
        rows: `(N,)` int64 on the CPU, which of the reader's images these are; None: all.
        among: the classes that an answer may be; None: all.
        draw: which random crop; None: the centre.
    """

    def __init__(
        self,
        reader: Reader,
        labels: Tensor,
        *,
        rows: Tensor | None = None,
        among: Tensor | None = None,
        draw: Draw = None,
    ) -> None:
        object.__setattr__(self, "labels", labels)  # a frozen field
        self.reader, self._among, self._draw = reader, among, draw
        self._rows = torch.arange(len(labels)) if rows is None else rows

    def __repr__(self) -> str:
        return f"Stream({len(self)} images, {self.shape})"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.reader.shape

    @property
    def among(self) -> Tensor | None:
        return self._among

    @property
    def nbytes(self) -> int:
        """What `images` would take, as float32."""
        return 4 * len(self) * math.prod(self.shape)

    @property
    def images(self) -> Tensor:  # type: ignore[override]  # a field there, read here
        """All of them.

        Raises:
            ValueError: more than fit in memory; or a file that is no picture.
        """
        if self.nbytes > IN_MEMORY:
            raise ValueError(
                f"{len(self)} images of {self.shape} at once take {self.nbytes / 2**30:.1f} GiB as float32, and this "
                "work wants them at once; take fewer images (task.images=...), or give data.in_memory=true"
            )
        return self.read()

    def read(self) -> Tensor:
        """All images, `(N, C, H, W)` float32 in [0, 1] on the device, however many they are."""
        images = torch.empty(len(self), *self.shape, device=self.device)
        for start in range(0, len(self), CHUNK):
            pixels = self.reader.read(self._rows[start : start + CHUNK].tolist(), self._draw)
            images[start : start + CHUNK] = pixels.to(self.device).to(torch.float32).div_(255)
        return images

    def to(self, device: torch.device) -> Stream:
        among = None if self._among is None else self._among.to(device)
        return Stream(self.reader, self.labels.to(device), rows=self._rows, among=among, draw=self._draw)

    def __getitem__(self, index: Tensor | slice) -> Stream:
        rows = self._rows[index.cpu() if isinstance(index, Tensor) else index]
        labels = self.labels[index.to(self.device) if isinstance(index, Tensor) else index]
        return Stream(self.reader, labels, rows=rows, among=self._among, draw=self._draw)

    def view(self, seed: int, number: int) -> Stream:
        return Stream(self.reader, self.labels, rows=self._rows, among=self._among, draw=(seed, number))

    def prefetch(self, index: Tensor | slice) -> None:
        rows = self._rows[index.cpu() if isinstance(index, Tensor) else index]
        self.reader.prefetch(rows.tolist(), self._draw)

    def in_memory(self) -> Part:
        return Part(self.images, self.labels)


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(32, os.cpu_count() or 1), thread_name_prefix="pictures")


class Pictures:
    """Picture files, brought to one size.

    Args:
        paths: of the files.
        size: of the result, pixels.
        resize: pixels of the shorter side before the centre crop; None: `size`.
        channels: 1 (grey) or 3.
        random_crop: a draw asks for a random crop (`CROP_AREA`, `CROP_RATIO`) and a flip; without it, for the centre.

    Raises:
        ValueError: a size, or a number of channels, that cannot be; or later, a file that is no picture.
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
            raise ValueError(f"data.channels={channels}: wanted 1 or 3")
        if size < 1 or resize < size:
            raise ValueError(f"data.size={size}, data.resize={resize}: wanted pixels, 1 <= size <= resize")
        self.paths, self.size, self.random_crop = paths, size, random_crop
        self.shape = (channels, size, size)
        colour = v2.RGB() if channels == 3 else v2.Grayscale()
        self._centre = v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(size), colour])
        self._colour = colour
        self._ahead: dict[tuple[int, Draw], Future[Tensor]] = {}

    def read(self, rows: Sequence[int], draw: Draw) -> Tensor:
        if not rows:
            return torch.empty(0, *self.shape, dtype=torch.uint8)
        draw = draw if self.random_crop else None
        futures = [self._ahead.pop((row, draw), None) or _pool().submit(self._decoded, row, draw) for row in rows]
        return torch.stack([future.result() for future in futures])

    def prefetch(self, rows: Sequence[int], draw: Draw) -> None:
        for future in self._ahead.values():  # that nobody came for
            future.cancel()
        draw = draw if self.random_crop else None
        self._ahead = {(row, draw): _pool().submit(self._decoded, row, draw) for row in rows}

    def _decoded(self, row: int, draw: Draw) -> Tensor:
        path = self.paths[row]
        try:
            with Image.open(path) as file:
                picture = functional.pil_to_tensor(file.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read as a picture ({error}); mend or remove it") from error
        if draw is None:
            pixels: Tensor = self._centre(picture)
            return pixels
        return self._cropped(picture, np.random.default_rng([draw[0] % 2**63, draw[1], row]))

    def _cropped(self, picture: Tensor, generator: np.random.Generator) -> Tensor:
        # torchvision's own transform draws from the global generator, in the order in which threads come
        height, width = picture.shape[-2:]
        top, left, tall, wide = crop_box(height, width, generator)
        pixels = functional.resized_crop(picture, top, left, tall, wide, [self.size, self.size], antialias=True)
        coloured: Tensor = self._colour(functional.horizontal_flip(pixels) if generator.random() < 0.5 else pixels)
        return coloured


def crop_box(height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, by the rule of torchvision's RandomResizedCrop."""
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
    """Arrays of images one after the other; memory-mapped ones stay on disk.

    Args:
        arrays: uint8, `(N, C, H, W)`, or `(N, H, W, C)` or `(N, H, W)` with `channels_last`.
        channels_last: where the channels are.
        shape: `(C, H, W)` that images are padded to with zeros, the image in the middle; None: as they are.

    Raises:
        ValueError: no arrays, other types or shapes, or images that are larger than `shape` or of other channels.
    """

    def __init__(
        self, arrays: Sequence[np.ndarray], *, channels_last: bool = False, shape: tuple[int, int, int] | None = None
    ) -> None:
        given = {(array.dtype.name, array.ndim, array.shape[1:]) for array in arrays}
        if len(given) != 1:
            raise ValueError(f"arrays of {sorted(given)}: wanted at least one, all of one type and shape")
        kind, axes, rest = given.pop()
        if kind != "uint8" or axes not in ((3, 4) if channels_last else (4,)):
            wanted = "(N, H, W, C) or (N, H, W)" if channels_last else "(N, C, H, W)"
            raise ValueError(f"an array of {kind} (N, {', '.join(map(str, rest))}): wanted uint8 {wanted}")
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

    def read(self, rows: Sequence[int], draw: Draw) -> Tensor:
        wanted = np.asarray(rows, dtype=np.int64)
        which = np.searchsorted(self._ends, wanted, side="right")
        pixels = np.empty((len(wanted), *self._arrays[0].shape[1:]), dtype=np.uint8)
        for number in np.unique(which):
            here = which == number
            start = self._ends[number] - len(self._arrays[number])
            pixels[here] = self._arrays[number][wanted[here] - start]
        images = torch.from_numpy(pixels)
        images = images[:, None] if self._grey else images.permute(0, 3, 1, 2) if self._last else images
        return F.pad(images, self._padding).contiguous()

    def prefetch(self, rows: Sequence[int], draw: Draw) -> None:
        """The operating system reads ahead."""
