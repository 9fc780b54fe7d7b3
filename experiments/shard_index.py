"""The index of a store of hard images: a line for each image, and the totals.

| column of `index.csv` | what it is |
|---|---|
| `key`, `shard`, `file` | the image's key, its shard's number, and the file that holds it; empty: it is not kept |
| `label`, `class` | the label, and its class's name |
| `seed`, `score_before`, `score_after`, `accepted`, `source` | as in `experiments.shards.HardImages` |
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments import shard_files as files
from experiments.checkpoint import flatten

COLUMNS = ("key", "shard", "file", "label", "class", "seed", "score_before", "score_after", "accepted", "source")


@dataclass(frozen=True)
class Index:
    """The totals of all finished shards, as in `index.json`.

    Attributes:
        shards: their numbers.
        images, accepted, accept_rate: counts, and their ratio (None without images).
        classes: for each class's name, its `images` and `accepted`.
        scores: means of `before` and `after` (None without a finite score), over `all` and over `accepted` images.
        identity: the configuration.
        extra: sums of the shards' numeric extras, with dotted keys.
    """

    shards: tuple[int, ...]
    images: int
    accepted: int
    accept_rate: float | None
    classes: dict[str, dict[str, int]]
    scores: dict[str, dict[str, float | None]]
    identity: dict[str, Any]
    extra: dict[str, float]


def summarize(folder: Path, manifests: dict[int, dict[str, Any]], setting: dict[str, Any]) -> tuple[bytes, Index]:
    """The content of `index.csv`, and the totals, of these finished shards.

    Args:
        setting: `identity`, `classes` and `layout`.
    """
    classes, layout = tuple(setting["classes"]), setting["layout"]
    folders = files.class_folders(classes)
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(COLUMNS)
    columns: list[dict[str, Tensor]] = []
    for index, manifest in manifests.items():
        found = files.facts_of(folder, manifest)
        del found["soft_labels"]
        columns.append(found)
        values = {name: column.tolist() for name, column in found.items()}
        for row, label in enumerate(values["labels"]):
            accepted = int(values["accepted"][row])
            key, file = files.key_of(index, row), files.archive_of(index, accepted=bool(accepted))
            if layout == "image_folder":
                file = files.picture_of(key, label, folders) if accepted else ""
            scores = (values["scores_before"][row], values["scores_after"][row], accepted, values["source"][row])
            lines.writerow((key, index, file, label, classes[label], values["seeds"][row], *scores))
    return table.getvalue().encode(), _totals(manifests, columns, classes, setting["identity"])


def _totals(
    manifests: dict[int, dict[str, Any]],
    columns: list[dict[str, Tensor]],
    classes: tuple[str, ...],
    identity: dict[str, Any],
) -> Index:
    empty = {"labels": torch.empty(0, dtype=torch.int64), "accepted": torch.empty(0, dtype=torch.bool)}
    empty |= dict.fromkeys(("scores_before", "scores_after"), torch.empty(0))
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
    return Index(
        shards=tuple(manifests),
        images=len(labels),
        accepted=int(accepted.sum()),
        accept_rate=float(accepted.double().mean()) if len(labels) else None,
        classes={name: {"images": counts[0][i], "accepted": counts[1][i]} for i, name in enumerate(classes)},
        scores=scores,
        identity=identity,
        extra=extra,
    )
