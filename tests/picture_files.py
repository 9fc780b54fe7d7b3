"""Small folders of pictures in the layouts of the real data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(
    folder: Path, count: int, *, seed: int = 0, size: tuple[int, int] = (24, 20), suffix: str = ".png"
) -> list[Path]:
    """`count` pictures of noise, `size` wide and high."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    paths = [folder / f"{number:03d}{suffix}" for number in range(count)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return paths


def write_classes(root: Path, classes: tuple[str, ...], count: int, **settings: object) -> None:
    """A folder of pictures for each class."""
    for number, name in enumerate(classes):
        write_pictures(root / name, count, seed=number, **settings)  # type: ignore[arg-type]  # handed on
