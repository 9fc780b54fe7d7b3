"""Small benchmarks of spurious features: images in memory, and folders in the true formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hard_aug.data import Grouped

CLASSES, ATTRIBUTES = ("landbird", "waterbird"), ("land", "water")
# landbirds on land 3 of 4, landbirds on water 1 of 2, waterbirds on water 1 of 3, none on land
BIRDS = ([0, 0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 0, 0, 1, 0])


class Reader(nn.Module):
    """Logits that are the first pixels of the images: the test decides what is predicted."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            raise AssertionError("expected evaluation mode")
        return images[:, 0, 0, :2]


def grouped(labels: list[int], spurious: list[int], predicted: list[int]) -> Grouped:
    images = torch.zeros(len(labels), 1, 2, 2)
    images[range(len(labels)), 0, 0, predicted] = 1
    return Grouped(images, torch.tensor(labels), torch.tensor(spurious), CLASSES, ATTRIBUTES)


def save_color(path: Path, red: int, *, size: tuple[int, int] = (14, 20)) -> None:
    """Save an image of one colour, whose red identifies it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), (red, 10, 200), np.uint8)).save(path, quality=95)


def reds(part: Grouped) -> list[int]:
    return (part.images[:, 0].mean((1, 2)) * 255).round().int().tolist()


def write_waterbirds(folder: Path) -> None:
    """Write two images of each of the four groups in each split; red is 100 y + 50 place + 10 split + number."""
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for split in (0, 1, 2):
        for label in (0, 1):
            for place in (0, 1):
                for number in (0, 1):
                    name = f"{label:03d}.Some_Bird/Bird_{split}{place}{number}.png"
                    save_color(folder / name, 100 * label + 50 * place + 10 * split + number)
                    lines.append(f"{len(lines)},{name},{label},{split},{place},/b/bamboo_forest/0.jpg")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def write_celeba(folder: Path, form: str = "txt") -> None:
    """Write twelve JPEGs; red is 100 blond + 50 male + 10 split; the partition is in another order."""
    rows = [(blond, male, split) for split in (0, 1, 2) for blond in (-1, 1) for male in (-1, 1)]
    names = [f"{number:06d}.jpg" for number in range(1, len(rows) + 1)]
    for name, (blond, male, split) in zip(names, rows, strict=True):
        save_color(folder / "img_align_celeba" / name, 50 * (blond + 1) + 25 * (male + 1) + 10 * split, size=(218, 178))
    attributes = [[str(-male), str(blond), str(male)] for blond, male, _ in rows]
    header = ["Bald", "Blond_Hair", "Male"]
    pairs = list(zip(names, rows, attributes, strict=True))
    if form == "txt":
        text = [str(len(rows)), " ".join(header) + " ", *(f"{name}  {'  '.join(a)}" for name, _, a in pairs)]
        partition = [f"{name} {row[2]}" for name, row, _ in reversed(pairs)]
    else:
        text = [",".join(["image_id", *header]), *(",".join([name, *a]) for name, _, a in pairs)]
        partition = ["image_id,partition", *(f"{name},{row[2]}" for name, row, _ in reversed(pairs))]
    (folder / f"list_attr_celeba.{form}").write_text("\n".join(text) + "\n")
    (folder / f"list_eval_partition.{form}").write_text("\n".join(partition) + "\n")


def write_spuco(folder: Path) -> None:
    """Write one JPEG of each group in each split; red is 100 label + 50 attribute + 10 split."""
    for split, title in enumerate(("train", "val", "test")):
        for label, name in enumerate(("landbirds", "waterbirds")):
            for spurious, attribute in enumerate(("land", "water")):
                save_color(folder / title / name / attribute / "n01.JPEG", 100 * label + 50 * spurious + 10 * split)
