"""Small shards of hard images."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from hard_aug.data import HardImages, ShardWriter

CLASSES = ("zebra", "apple/pear", "T-shirt, top")
SHARDS, ROWS = 3, 6
LAYOUTS = ("webdataset", "image_folder")


def hard(index: int, rows: int = ROWS, channels: int = 3, size: int = 5) -> HardImages:
    draws = torch.Generator().manual_seed(100 + index)
    return HardImages(
        images=torch.randint(0, 256, (rows, channels, size, size), generator=draws, dtype=torch.uint8),
        labels=torch.randint(0, 3, (rows,), generator=draws),
        soft_labels=torch.rand(rows, 3, generator=draws).softmax(1),
        seeds=torch.arange(rows) + 10**15 * (index + 1),
        scores_before=torch.randn(rows, generator=draws),
        scores_after=torch.randn(rows, generator=draws) + 1,
        accepted=torch.arange(rows) % 3 != 1,
        source=torch.arange(rows) - 1,
    )


def writer(folder: Path, layout: Any = "webdataset", **identity: Any) -> ShardWriter:
    return ShardWriter(
        folder, identity={"steps": 3, "search": {"name": "a"}, **identity}, classes=CLASSES, layout=layout
    )


def write_all(folder: Path, layout: str = "webdataset", mine: slice = slice(None)) -> None:
    store = writer(folder, layout)
    for index in range(SHARDS)[mine]:
        if not store.is_done(index):
            store.write(index, hard(index), extra={"evaluations": {"unet": 10 + index}, "note": "x", "warm": True})


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def same(a: HardImages, b: HardImages) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
