"""Generated hard images on disk: shards that survive a kill at any moment, and an index of all of them.

| file | what is in it |
|---|---|
| `shard-000000.json` | manifest of a finished shard, written last: counts, hashes of its files, configuration, extras |
| `shard-000000.tar` | layout `webdataset`: accepted images as `<key>.png`, `<key>.cls`, `<key>.json` (all the rest) |
| `rejected-000000.tar` | the same of the shard's rejected images, where there are any; they are not to be trained on |
| `images/00_name/<key>.png` | layout `image_folder`: accepted images, for `torchvision.datasets.ImageFolder` |
| `shard-000000.npz` | layout `image_folder`: all but the images, rejected ones included |
| `index.csv`, `index.json` | a line for each image, and the totals; see `experiments.shard_index` |
| `.shard-000000/` | what is being written; a kill leaves it, and the next `write` of the shard removes it |

A key is the shard's number in 6 digits and the row's in 5. Equal content makes equal files, bit for bit. No file is
shared by two shards, so processes that write different ones need no lock. Archives follow WebDataset's convention
(https://github.com/webdataset/webdataset): neighbours with a common base name are one sample.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

from experiments import disk
from experiments import shard_files as files
from experiments.shard_index import Index, summarize

logger = logging.getLogger(__name__)
MOST_SHARDS, MOST_ROWS = 10**6, 10**5  # what the digits of a key can number


@dataclass(frozen=True)
class HardImages:
    """What one call of a generator gives, and what a store holds.

    Attributes:
        images: `(N, C, H, W)` uint8, after rounding to 8 bits; C is 1 or 3.
        labels: `(N,)` int64 in [0, K).
        soft_labels: `(N, K)` float32, the teacher's probabilities.
        seeds: `(N,)` int64, of each image's noise.
        scores_before, scores_after: `(N,)` float32, without and with the search.
        accepted: `(N,)` bool.
        source: `(N,)` int64, index of the real image it began with; -1: none.

    Raises:
        TypeError: a dtype other than these.
        ValueError: shapes or labels that do not fit, or an accepted image whose score or probability is none.
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor
    seeds: Tensor
    scores_before: Tensor
    scores_after: Tensor
    accepted: Tensor
    source: Tensor

    def __post_init__(self) -> None:
        kinds = {"images": torch.uint8, "accepted": torch.bool}
        kinds |= dict.fromkeys(("labels", "seeds", "source"), torch.int64)
        for field in fields(self):
            given, wanted = getattr(self, field.name), kinds.get(field.name, torch.float32)
            if given.dtype != wanted:
                raise TypeError(f"{field.name} is {given.dtype}: wanted {wanted}; convert with .to({wanted})")
            axes = {"images": 4, "soft_labels": 2}.get(field.name, 1)
            if given.ndim != axes or len(given) != len(self.images):
                raise ValueError(
                    f"{field.name} has the shape {tuple(given.shape)}: wanted {axes} axes, {len(self.images)} rows"
                )
        if self.images.shape[1] not in (1, 3):
            raise ValueError(f"images of {self.images.shape[1]} channels: wanted (N, C, H, W) with C = 1 or 3")
        if not len(self):
            return
        low, high, classes = int(self.labels.min()), int(self.labels.max()), self.soft_labels.shape[1]
        if low < 0 or high >= classes:
            raise ValueError(f"labels from {low} to {high}: wanted 0 to {classes - 1}, the columns of soft_labels")
        kept = self.soft_labels[self.accepted]
        if not bool(((kept >= 0) & (kept <= 1.01)).all() and ((kept.sum(1) - 1).abs() < 0.01).all()):
            raise ValueError("soft_labels of accepted images are no probabilities; give the softmax of the logits")
        if not bool(self.scores_after[self.accepted].isfinite().all()):  # those before may not have been measured
            raise ValueError("accepted images have scores that are not finite; reject them: accepted=False")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> HardImages:
        return HardImages(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @staticmethod
    def cat(parts: Sequence[HardImages]) -> HardImages:
        """All of them in order."""
        return HardImages(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(HardImages)})


@dataclass(frozen=True)
class Store:
    """What `read` gives: the images, each class's name, and the configuration that made them."""

    images: HardImages
    classes: tuple[str, ...]
    identity: dict[str, Any]


class ShardWriter:
    """Writes shards into a folder, in any order and from several processes (each its own shards).

    Args:
        folder: made if it is not there.
        identity: all that the images depend on, JSON-able; a folder holds one configuration.
        classes: names in the order of the labels.
        layout: see the table above.

    Raises:
        ValueError: a folder of another configuration (names what differs), an unknown layout, or classes that repeat.
        TypeError: an identity that JSON cannot hold.
    """

    def __init__(
        self,
        folder: Path,
        *,
        identity: dict[str, Any],
        classes: Sequence[str],
        layout: Literal["webdataset", "image_folder"] = "webdataset",
    ) -> None:
        if layout not in ("webdataset", "image_folder"):
            raise ValueError(f"layout={layout!r}: wanted 'webdataset' or 'image_folder'")
        if not classes or len(set(classes)) < len(classes):
            raise ValueError(f"classes={list(classes)}: wanted one or more names, all different")
        self.folder, self.classes, self.layout = Path(folder), tuple(map(str, classes)), layout
        self._setting = json.loads(json.dumps({"identity": identity, "classes": self.classes, "layout": layout}))
        self.folder.mkdir(parents=True, exist_ok=True)
        for found in files.manifests_of(self.folder).values():
            files.check_setting(self.folder, found, self._setting)

    def done(self, index: int) -> bool:
        """Whether the shard is finished and whole; its files are hashed, and one that is not is logged.

        Raises:
            ValueError: a shard of another configuration.
        """
        _check_index(index)
        manifest = files.manifest_of(self.folder, index)
        if manifest is not None:
            files.check_setting(self.folder, manifest, self._setting)
        elif not any(path.exists() for path in files.traces_of(self.folder, index)):
            return False
        problem = (
            "it was interrupted, or its manifest is damaged"
            if manifest is None
            else files.damage_of(self.folder, manifest)
        )
        if problem:
            logger.warning("shard %d in %s is to be written again: %s", index, self.folder, problem)
        return not problem

    def write(self, index: int, images: HardImages, *, extra: dict[str, Any] | None = None) -> None:
        """Write a shard in place of whatever is there of it.

        Args:
            images: any number of rows; rejected ones too, which the layout `image_folder` only counts.
            extra: JSON-able facts about the shard (evaluations, seconds); numbers are summed in the index.

        Raises:
            ValueError: images that do not fit the classes, or numbers beyond what keys can hold.
            TypeError: an extra that JSON cannot hold.
            OSError: the disk; nothing of the unfinished shard stays, finished ones stay valid.
        """
        _check_index(index)
        columns, wanted = images.soft_labels.shape[1], len(self.classes)
        if columns != wanted:
            raise ValueError(f"soft_labels of {columns} columns: wanted one for each of {wanted} classes")
        if len(images) > MOST_ROWS:
            raise ValueError(f"{len(images)} images in a shard: wanted at most {MOST_ROWS}; write smaller shards")
        facts = json.loads(json.dumps(extra or {}))
        encode = files.archive if self.layout == "webdataset" else files.pictures
        staging = files.traces_of(self.folder, index)[0]
        digests: dict[str, str] = {}
        with self._explained(f"shard {index}"):
            try:
                files.clear(self.folder, index)
                staging.mkdir()
                for name, data in encode(index, images, self.classes):
                    files.put(staging / str(len(digests)), data)
                    digests[name] = hashlib.sha256(data).hexdigest()
                for number, name in enumerate(digests):
                    (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(staging / str(number), self.folder / name)
                for folder in sorted({(self.folder / name).parent for name in digests}):
                    files.sync_folder(folder)
                manifest = {
                    "shard": index,
                    "count": len(images),
                    "accepted": int(images.accepted.sum()),
                    "shape": list(images.images.shape[1:]),
                    "config": files.config_hash(self._setting),
                    "sha256": digests,
                    "extra": facts,
                    **self._setting,
                }
                place = self.folder / f"{files.name_of(index)}.json"
                files.replace(place, files.to_json(manifest), staging / "manifest")
            except BaseException:
                files.clear(self.folder, index)
                raise
        shutil.rmtree(staging, ignore_errors=True)

    def finish(self) -> Index:
        """Write `index.csv` and `index.json` over all finished shards, and remove what interrupted ones left.

        Only one process calls this, and only once the others have stopped writing.

        Raises:
            ValueError: a finished shard that has been damaged since, or has another configuration.
        """
        manifests = files.manifests_of(self.folder)
        for index, manifest in manifests.items():
            files.check_setting(self.folder, manifest, self._setting)
            if problem := files.damage_of(self.folder, manifest):
                raise ValueError(f"shard {index} in {self.folder}: {problem}. {files.AGAIN}")
        files.remove_strays(self.folder, manifests)
        if self.layout == "image_folder":
            for name in files.class_folders(self.classes):  # one without pictures has its place in the order too
                (self.folder / "images" / name).mkdir(parents=True, exist_ok=True)
        table, totals = summarize(self.folder, manifests, self._setting)
        with self._explained("the index"):
            files.replace(self.folder / "index.csv", table, self.folder / ".index.csv")
            files.replace(self.folder / "index.json", files.to_json(asdict(totals)), self.folder / ".index.json")
        return totals

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in disk.FULL:
                raise
            finished = len(files.manifests_of(self.folder))
            raise OSError(
                error.errno,
                f"the disk of {self.folder} is full, {what} was not written. {finished} shards are finished and stay "
                "valid; free some space, and the same command goes on from there",
            ) from error


def read(folder: Path, *, verify: bool = True, accepted_only: bool = True) -> Store:
    """All finished shards of a folder, in order.

    Args:
        verify: hash every file first.
        accepted_only: leave rejected images out.

    Raises:
        FileNotFoundError: no finished shard.
        ValueError: shards that are damaged, missing though the index lists them, of several configurations or shapes,
            or rejected images asked of the layout `image_folder`, which does not keep them.
    """
    parts: list[HardImages] = []
    first: dict[str, Any] = {}
    for manifest, images in _shards(Path(folder), verify, accepted_only):
        first = first or manifest
        if parts and images.images.shape[1:] != parts[0].images.shape[1:]:
            shapes = [tuple(part.images.shape[1:]) for part in (parts[0], images)]
            raise ValueError(f"shard {manifest['shard']} in {folder} has images of {shapes[1]}, others {shapes[0]}")
        parts.append(images)
    return Store(HardImages.cat(parts), tuple(first["classes"]), first["identity"])


def sheets(
    source: Path | HardImages, folder: Path, *, most: int = 64, columns: int = 8, classes: Sequence[str] | None = None
) -> list[Path]:
    """One PNG for each class that has accepted images: the first `most` of them, `columns` in a row; their paths.

    Args:
        source: a store's folder, or images; then `classes` names them (without: their numbers).

    Raises:
        ValueError: fewer than one column or image, or names that are not one for each class.
    """
    if columns < 1 or most < 1:
        raise ValueError(f"columns={columns}, most={most}: wanted at least 1 of each")
    picked: dict[int, list[Tensor]] = {}
    names = tuple(classes or ())
    parts = [({}, source)] if isinstance(source, HardImages) else _shards(Path(source), True, True)
    for manifest, images in parts:
        names = names or tuple(manifest.get("classes", map(str, range(images.soft_labels.shape[1]))))
        if len(names) != images.soft_labels.shape[1]:
            raise ValueError(f"{len(names)} classes for images of {images.soft_labels.shape[1]}: wanted as many names")
        for row in torch.nonzero(images.accepted)[:, 0].tolist():
            chosen = picked.setdefault(int(images.labels[row]), [])
            if len(chosen) < most:
                chosen.append(images.images[row].cpu())
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for label, chosen in sorted(picked.items()):
        paths.append(folder / f"{files.class_folders(names)[label]}.png")
        save_image(make_grid(torch.stack(chosen).float() / 255, nrow=columns), paths[-1])
    return paths


def _check_index(index: int) -> None:
    if not 0 <= index < MOST_SHARDS:
        raise ValueError(f"shard {index}: wanted a number from 0 to {MOST_SHARDS - 1}")


def _shards(folder: Path, verify: bool, accepted_only: bool) -> Iterator[tuple[dict[str, Any], HardImages]]:
    manifests = files.manifests_of(folder)
    if not manifests:
        raise FileNotFoundError(f"no finished shard in {folder}; wanted a folder that ShardWriter has written")
    first = next(iter(manifests.values()))
    index = folder / "index.json"
    missing = sorted({*json.loads(index.read_text())["shards"]} - manifests.keys()) if index.is_file() else []
    if missing:
        raise ValueError(f"{folder}: the index lists the shards {missing}, but they are not finished. {files.AGAIN}")
    for number, manifest in manifests.items():
        files.check_setting(folder, manifest, first)
        if problem := files.damage_of(folder, manifest) if verify else "":
            raise ValueError(f"shard {number} in {folder}: {problem}. {files.AGAIN}")
        facts = files.facts_of(folder, manifest)
        rejected = manifest["count"] - manifest["accepted"]
        if rejected and not accepted_only and manifest["layout"] == "image_folder":
            raise ValueError(
                f"shard {number} in {folder} has {rejected} rejected images, which the layout 'image_folder' does not "
                "keep; read with accepted_only=True, or write with layout='webdataset'"
            )
        rows = torch.arange(manifest["count"])
        if accepted_only:
            rows = rows[facts["accepted"]]
        pixels = files.pixels_of(folder, manifest, facts, rows.tolist())
        yield manifest, HardImages(images=pixels, **{name: values[rows] for name, values in facts.items()})
