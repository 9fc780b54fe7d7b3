"""Small images, and folders of image files in the layouts of the real data sets."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor


def write_pictures(
    folder: Path, count: int, *, seed: int = 0, size: tuple[int, int] = (24, 20), suffix: str = ".png"
) -> list[Path]:
    """Write `count` images of noise, `size` wide and high."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    paths = [folder / f"{number:03d}{suffix}" for number in range(count)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return paths


def write_classes(root: Path, classes: tuple[str, ...], count: int, **settings: object) -> None:
    """Write a folder of images for each class."""
    for number, name in enumerate(classes):
        write_pictures(root / name, count, seed=number, **settings)  # type: ignore[arg-type]  # handed on


@functools.cache
def crops(count: int, size: int, *, grey: bool = False) -> Tensor:
    """Crops of photographs, `(count, 3 or 1, size, size)` uint8."""
    photographs = (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee())
    generator = np.random.default_rng(0)
    found = []
    for number in range(count):
        photograph = photographs[number % 3]
        top, left = (generator.integers(edge - 150) for edge in photograph.shape[:2])
        picture = Image.fromarray(photograph[top : top + 150, left : left + 150]).resize((size, size))
        found.append(np.asarray(picture.convert("L"))[None] if grey else np.asarray(picture).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(found))
