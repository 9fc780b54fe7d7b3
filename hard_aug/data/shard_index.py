"""The index of a folder of shards: a line for each image, and the totals.

| column of `index.csv` | content |
|---|---|
| `key`, `shard`, `file` | key of the image, number of its shard, and the file that holds it (empty: not stored) |
| `label`, `class` | label, and name of the class |
| `seed`, `score_before`, `score_after`, `accepted`, `source` | as in `hard_aug.data.HardImages` |
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hard_aug.data.shard_encoding import archive_name, class_folders, image_key, image_path, read_facts
from hard_aug.utils.hashing import flatten

COLUMNS = ("key", "shard", "file", "label", "class", "seed", "score_before", "score_after", "accepted", "source")


@dataclass(frozen=True)
class ShardIndex:
    """Totals of all finished shards of a folder, as in `index.json`.

    Attributes:
        shards: numbers of the shards.
        images: number of images.
        accepted: number of accepted images.
        accept_rate: their ratio; None without images.
        classes: `images` and `accepted` by name of the class.
        scores: means of `before` and `after` (None without a finite score), over `all` and over `accepted` images.
        identity: the configuration.
        extra: sums of the numeric extras of the shards, with dotted keys.

    Example:
        >>> import tempfile
        >>> from hard_aug.data import ShardWriter
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(ShardWriter(folder, identity={"seed": 0}, classes=("cat", "dog")).finish().classes)
        {'cat': {'images': 0, 'accepted': 0}, 'dog': {'images': 0, 'accepted': 0}}
    """

    shards: tuple[int, ...]
    images: int
    accepted: int
    accept_rate: float | None
    classes: dict[str, dict[str, int]]
    scores: dict[str, dict[str, float | None]]
    identity: dict[str, Any]
    extra: dict[str, float]


def summarize(folder: Path, manifests: dict[int, dict[str, Any]], setting: dict[str, Any]) -> tuple[bytes, ShardIndex]:
    """Summarize finished shards.

    Args:
        folder: of the shards.
        manifests: of the shards, by number.
        setting: `identity`, `classes` and `layout`.

    Returns:
        The content of `index.csv`, and the totals.
    """
    classes, layout = tuple(setting["classes"]), setting["layout"]
    folders = class_folders(classes)
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(COLUMNS)
    columns: list[dict[str, Tensor]] = []
    for index, manifest in manifests.items():
        found = read_facts(folder, manifest)
        del found["soft_labels"]
        columns.append(found)
        values = {name: column.tolist() for name, column in found.items()}
        for row, label in enumerate(values["labels"]):
            accepted = int(values["accepted"][row])
            key, file = image_key(index, row), archive_name(index, accepted=bool(accepted))
            if layout == "image_folder":
                file = image_path(key, label, folders) if accepted else ""
            scores = (values["scores_before"][row], values["scores_after"][row], accepted, values["source"][row])
            lines.writerow((key, index, file, label, classes[label], values["seeds"][row], *scores))
    content = table.getvalue().encode("utf-8", "backslashreplace")
    return content, _totals(manifests, columns, classes, setting["identity"])


def _totals(
    manifests: dict[int, dict[str, Any]],
    columns: list[dict[str, Tensor]],
    classes: tuple[str, ...],
    identity: dict[str, Any],
) -> ShardIndex:
    empty = {
        "labels": torch.empty(0, dtype=torch.int64, device="cpu"),
        "accepted": torch.empty(0, dtype=torch.bool, device="cpu"),
    }
    empty |= dict.fromkeys(("scores_before", "scores_after"), torch.empty(0, dtype=torch.float32, device="cpu"))
    found = {name: torch.cat([values, *(column[name] for column in columns)]) for name, values in empty.items()}
    labels, accepted = found["labels"], found["accepted"]
    counts = [torch.bincount(chosen, minlength=len(classes)).tolist() for chosen in (labels, labels[accepted])]
    scores: dict[str, dict[str, float | None]] = {}
    for who, rows in (("all", torch.ones_like(accepted)), ("accepted", accepted)):
        scores[who] = {}
        for when in ("before", "after"):
            values = found[f"scores_{when}"][rows].double()
            values = values[values.isfinite()]
            scores[who][when] = float(values.mean()) if len(values) else None
    extra: dict[str, float] = {}
    for manifest in manifests.values():
        for name, value in flatten(manifest["extra"]).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                extra[name] = extra.get(name, 0) + value
    return ShardIndex(
        shards=tuple(manifests),
        images=len(labels),
        accepted=int(accepted.sum()),
        accept_rate=float(accepted.double().mean()) if len(labels) else None,
        classes={name: {"images": counts[0][i], "accepted": counts[1][i]} for i, name in enumerate(classes)},
        scores=scores,
        identity=identity,
        extra=extra,
    )
