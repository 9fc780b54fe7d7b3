"""Decoding image files into tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, default_loader, has_file_allowed_extension
from torchvision.transforms import InterpolationMode, v2


def read_image_files(
    paths: Sequence[Path],
    *,
    size: int,
    channels: int = 3,
    resize: int | None = None,
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
    workers: int | None = None,
) -> Tensor:
    """Decode image files to `(N, channels, size, size)` float32 in [0, 1], with threads.

    Args:
        paths: files of any format that Pillow reads.
        size: of the centre crop, in pixels.
        channels: 1 or 3.
        resize: length in pixels to which the shorter side is resized before the crop; None: `size`.
        interpolation: of the resizing, which is antialiased.
        workers: threads; None: one per core, 8 at most.

    Raises:
        ValueError: a number of channels other than 1 or 3; a file that cannot be decoded, which it names.
        FileNotFoundError: a missing file.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: expected 1 or 3")
    prepare = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(resize or size, interpolation=interpolation, antialias=True),
            v2.CenterCrop(size),
            v2.RGB() if channels == 3 else v2.Grayscale(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    images = torch.empty(len(paths), channels, size, size)  # filled in place: a list to stack would take it all twice

    def fill(index: int) -> None:
        try:
            images[index] = prepare(default_loader(str(paths[index])))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no file {paths[index]}, though it is listed; unpack the data again") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{paths[index]} cannot be decoded as an image ({error}); download it again") from error

    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, range(len(paths))):  # raises what a thread raised, and cancels the rest
            pass
    return images


def list_image_files(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name, without hidden ones (macOS leaves such) and other files."""
    return sorted(
        path
        for path in folder.iterdir()
        if has_file_allowed_extension(path.name, IMG_EXTENSIONS) and not path.name.startswith(".")
    )
