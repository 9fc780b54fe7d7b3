"""Decoding image files into tensors, and which files and folders count as images and classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension
from torchvision.transforms import InterpolationMode, v2

#: TIFF's tag of the number of bits.
BITS_PER_SAMPLE = 258
#: Folders that unpacking and file servers leave beside the data.
NO_DATA = ("__MACOSX", "@eaDir", "lost+found")


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
        paths: files of any format that Pillow reads; see `open_image`.
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
    # filled in place: a list to stack would take it all twice
    images = torch.empty(len(paths), channels, size, size, dtype=torch.float32, device="cpu")

    def fill(index: int) -> None:
        images[index] = prepare(open_image(paths[index]))

    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, range(len(paths))):  # raises what a thread raised, and cancels the rest
            pass
    return images


def open_image(path: str | Path) -> Image.Image:
    """Decode an image file to 8 bits, grey (mode `L`) or in colour (`RGB`).

    Grey images of more bits are scaled by their depth, floats from [0, 1]. An alpha channel is dropped, and of several
    frames the first is taken, as torchvision does.

    Args:
        path: of a file of any format that Pillow reads.

    Raises:
        ValueError: a file that cannot be decoded, or whose values have no known range.
        FileNotFoundError: a missing file.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "F" or image.mode.startswith("I"):
                return _eight_bits(image)
            if image.mode in ("1", "L", "LA"):
                return image.convert("L")
            transparent = image.mode == "P" and "transparency" in image.info
            return (image.convert("RGBA") if transparent else image).convert("RGB")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no file {path}, though it is listed; unpack the data again") from error
    except Exception as error:  # of many kinds, by format
        raise ValueError(f"{path} cannot be decoded as an image ({error}); repair or remove it") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a grey image of more than 8 bits as one of 8 (Pillow's own conversion clips)."""
    pixels = np.asarray(image, dtype=np.float64)
    if image.mode == "F":
        white, (low, high) = 1.0, (pixels.min(), pixels.max())
        if not (low >= 0 and high <= 1):  # nor NaN
            raise ValueError(f"floats from {low:g} to {high:g}, expected [0, 1]: save it with 8 or 16 bits")
    else:
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]  # PNG and PGM come with 16
        if bits > 16:
            raise ValueError(f"integers of {bits} bits, of which white is unknown: save it with 8 or 16 bits")
        if pixels.min() < 0:
            raise ValueError(f"integers from {pixels.min():g} to {pixels.max():g}, expected at least 0")
        white = 2.0**bits - 1
    return Image.fromarray(np.rint(pixels * (255 / white)).astype(np.uint8))


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is none of the data by its name: hidden (`.DS_Store`), or one of `NO_DATA`."""
    return name.startswith(".") or name in NO_DATA


def is_image_name(name: str) -> bool:
    """Return whether a file is an image by its name."""
    return has_file_allowed_extension(name, IMG_EXTENSIONS) and not is_hidden(name)


def list_image_files(folder: Path) -> list[Path]:
    """Return the image files of a folder, sorted by name, without hidden ones (macOS leaves such) and other files."""
    return sorted(path for path in folder.iterdir() if is_image_name(path.name))


def list_image_tree(folder: Path) -> list[str]:
    """Return the image files of a folder and of those below it, sorted by folder, without what is hidden."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = (name for name in folders if not is_hidden(name))
        found += [(place, name) for name in names if is_image_name(name)]
    return [os.path.join(*each) for each in sorted(found)]


def list_class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder (also links to such), sorted, without hidden ones and files."""
    return sorted(each.name for each in folder.iterdir() if each.is_dir() and not is_hidden(each.name))
