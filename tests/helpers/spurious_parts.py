"""Small folders in the form of Spurious ImageNet and of ImageNet's validation images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save_rgb(path: Path, color: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 24, 3), color, np.uint8)).save(path)


def write_spurious_imagenet(tmp_path: Path) -> tuple[Path, Path]:
    """Write class 0, perfectly separated, and class 1 with two features, one of them greener than the class itself."""
    spurious, validation = tmp_path / "images", tmp_path / "val"
    for number in range(3):
        save_rgb(spurious / "spurious_class_0_tench_comp_4" / f"{number}.jpg", (10, 10, 250))
        save_rgb(spurious / "spurious_class_1_goldfish_comp_0" / f"{number}.png", (10, 240, 10))
        save_rgb(spurious / "spurious_class_1_goldfish_comp_12" / f"{number}.png", (200, 10, 10))
    for number in range(2):
        save_rgb(validation / "n01440764" / f"ILSVRC2012_val_{number}.JPEG", (250, 10, 10))
        save_rgb(validation / "1" / f"{number}.png", (10, 120, 10))
    save_rgb(validation / "n01484850" / "unused.JPEG", (0, 0, 0))
    (spurious / "timestamp.txt").write_text("1")
    (spurious / "__MACOSX").mkdir()
    return spurious, validation
