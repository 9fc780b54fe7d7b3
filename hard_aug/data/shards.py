"""Generated hard images on disk: shards that survive a kill at any moment, and an index of all of them.

| file | content |
|---|---|
| `shard-000000.json` | manifest of a finished shard, written last: counts, hashes of its files, configuration, extras |
| `shard-000000.tar` | layout `webdataset`: accepted images as `<key>.png`, `<key>.cls`, `<key>.json` (the rest) |
| `rejected-000000.tar` | the same for the rejected images of the shard, if there are any; not for training |
| `images/00_name/<key>.png` | layout `image_folder`: accepted images, for `torchvision.datasets.ImageFolder` |
| `shard-000000.npz` | layout `image_folder`: everything but the images, rejected ones included |
| `index.csv`, `index.json` | a line for each image, and the totals; see `hard_aug.data.shard_index` |
| `.shard-000000/` | a shard being written; a kill leaves it, and the next `write` of the shard removes it |

A key is the number of the shard in 6 digits and that of the row in 5. Equal content makes bit-identical files. No file
is shared by two shards, so processes that write different ones need no lock. Archives follow WebDataset's convention
(https://github.com/webdataset/webdataset): neighbours with a common base name are one sample.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

from hard_aug.data import shard_encoding as encoding
from hard_aug.data import shard_files as files
from hard_aug.data.hard_images import HardImages, HardImageStore
from hard_aug.data.shard_index import ShardIndex, summarize
from hard_aug.utils import disk
from hard_aug.utils.checks import check_integer, is_integer
from hard_aug.utils.files import replacing, sync_folder, write_bytes
from hard_aug.utils.hashing import as_json
from hard_aug.utils.settings_repr import SettingsRepr

logger = logging.getLogger(__name__)
MAX_SHARDS, MAX_ROWS = 10**6, 10**5  # what the digits of a key can number


class ShardWriter(SettingsRepr):
    """Writer of shards into a folder, in any order and from several processes (each its own shards).

    Args:
        folder: created if it does not exist.
        identity: everything that the images depend on, JSON-able; a folder holds one configuration.
        classes: name of each class, in the order of the labels.
        layout: `webdataset` or `image_folder`; see the table above.

    Raises:
        ValueError: a folder of another configuration (names what differs), an unknown layout, or repeated classes.
        TypeError: an identity that JSON cannot represent.

    Example:
        >>> import tempfile, torch
        >>> from hard_aug.data import HardImages, ShardWriter
        >>> hard = HardImages(
        ...     images=torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
        ...     labels=torch.tensor([0, 1]),
        ...     soft_labels=torch.full((2, 2), 0.5),
        ...     seeds=torch.arange(2),
        ...     scores_before=torch.zeros(2),
        ...     scores_after=torch.ones(2),
        ...     accepted=torch.tensor([True, False]),
        ...     source=torch.full((2,), -1),
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writer = ShardWriter(folder, identity={"seed": 0}, classes=("cat", "dog"))
        ...     for shard in range(3):
        ...         if not writer.is_done(shard):  # a finished shard is kept when the program starts again
        ...             writer.write(shard, hard)
        ...     index = writer.finish()
        >>> index.images, index.accepted, index.accept_rate
        (6, 3, 0.5)
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        identity: dict[str, Any],
        classes: Sequence[str],
        layout: Literal["webdataset", "image_folder"] = "webdataset",
    ) -> None:
        if layout not in ("webdataset", "image_folder"):
            raise ValueError(f"layout={layout!r}: expected 'webdataset' or 'image_folder'")
        if not classes or len(set(classes)) < len(classes):
            raise ValueError(f"classes={list(classes)}: expected one or more names, all different")
        self.folder, self.classes, self.layout = Path(folder), tuple(map(str, classes)), layout
        self._setting = as_json({"identity": identity, "classes": self.classes, "layout": layout})
        self.folder.mkdir(parents=True, exist_ok=True)
        for found in files.read_manifests(self.folder).values():
            files.check_setting(self.folder, found, self._setting)

    def is_done(self, index: int) -> bool:
        """Return whether a shard is finished and intact; hashes its files and logs a shard that is not.

        Args:
            index: number of the shard.

        Raises:
            ValueError: a shard of another configuration.
        """
        index = _checked_index(index)
        manifest = files.read_manifest(self.folder, index)
        if manifest is not None:
            files.check_setting(self.folder, manifest, self._setting)
        elif not any(path.exists() for path in files.paths_of(self.folder, index)):
            return False
        problem = (
            "it was interrupted, or its manifest is damaged"
            if manifest is None
            else files.find_damage(self.folder, manifest)
        )
        if problem:
            logger.warning("shard %d in %s has to be written again: %s", index, self.folder, problem)
        return not problem

    def write(self, index: int, images: HardImages, *, extra: dict[str, Any] | None = None) -> None:
        """Write a shard, replacing whatever exists of it.

        Args:
            index: number of the shard.
            images: any number of rows, including rejected ones, which the layout `image_folder` only counts.
            extra: JSON-able facts about the shard (evaluations, seconds); numbers are summed in the index.

        Raises:
            ValueError: images that do not fit the classes, or numbers beyond what keys can hold.
            TypeError: an extra that JSON cannot represent.
            OSError: the disk; nothing of the unfinished shard is left, finished shards stay valid.
        """
        index = _checked_index(index)
        columns, expected = images.soft_labels.shape[1], len(self.classes)
        if columns != expected:
            raise ValueError(f"soft_labels of {columns} columns: expected one for each of {expected} classes")
        if len(images) > MAX_ROWS:
            raise ValueError(f"{len(images)} images in a shard: expected at most {MAX_ROWS}; write smaller shards")
        facts = as_json(extra or {})
        encode = encoding.encode_archives if self.layout == "webdataset" else encoding.encode_image_folder
        staging = files.paths_of(self.folder, index)[0]
        digests: dict[str, str] = {}
        with disk.explain_disk_full(self.folder, lambda: self._disk_full(f"shard {index}")):
            try:
                files.remove_shard(self.folder, index)
                staging.mkdir()
                for name, data in encode(index, images, self.classes):
                    files.write_synced(staging / str(len(digests)), data)
                    digests[name] = hashlib.sha256(data).hexdigest()
                for number, name in enumerate(digests):
                    (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(staging / str(number), self.folder / name)
                for folder in sorted({(self.folder / name).parent for name in digests}):
                    sync_folder(folder)
                manifest = files.sealed(
                    {
                        "shard": index,
                        "count": len(images),
                        "accepted": int(images.accepted.sum()),
                        "shape": list(images.images.shape[1:]),
                        "config": files.config_hash(self._setting),
                        "sha256": digests,
                        "extra": facts,
                        **self._setting,
                    }
                )
                place = self.folder / f"{encoding.shard_name(index)}.json"
                write_bytes(place, encoding.to_json(manifest), beside=staging / "manifest")
            except BaseException:
                files.remove_shard(self.folder, index)
                raise
        shutil.rmtree(staging, ignore_errors=True)

    def finish(self) -> ShardIndex:
        """Write `index.csv` and `index.json` over all finished shards, and remove what interrupted ones left.

        Call it in one process only, once the others have stopped writing.

        Returns:
            The totals.

        Raises:
            ValueError: a finished shard that has been damaged since, or has another configuration.
        """
        manifests = files.read_manifests(self.folder)
        for index, manifest in manifests.items():
            files.check_setting(self.folder, manifest, self._setting)
            if problem := files.find_damage(self.folder, manifest):
                raise ValueError(f"shard {index} in {self.folder}: {problem}. {files.AGAIN}")
        files.remove_strays(self.folder, manifests)
        if self.layout == "image_folder":
            for name in encoding.class_folders(self.classes):  # a class without images has its place in the order too
                (self.folder / "images" / name).mkdir(parents=True, exist_ok=True)
        table, totals = summarize(self.folder, manifests, self._setting)
        with disk.explain_disk_full(self.folder, lambda: self._disk_full("the index")):
            write_bytes(self.folder / "index.csv", table, beside=self.folder / ".index.csv")
            write_bytes(
                self.folder / "index.json", encoding.to_json(asdict(totals)), beside=self.folder / ".index.json"
            )
        return totals

    def _disk_full(self, what: str) -> str:
        finished = len(files.read_manifests(self.folder))
        return (
            f"the disk of {self.folder} is full, {what} was not written. {finished} shards are finished and "
            "stay valid; free some space and run the same command again: it resumes from there"
        )


def read_shards(folder: str | Path, *, verify: bool = True, accepted_only: bool = True) -> HardImageStore:
    """Read all finished shards of a folder, in order.

    Args:
        folder: written by `ShardWriter`.
        verify: hash every file first.
        accepted_only: leave rejected images out.

    Raises:
        FileNotFoundError: no finished shard.
        ValueError: shards that are damaged, missing though the index lists them, of several configurations or shapes,
            or rejected images requested of the layout `image_folder`, which does not keep them.
    """
    parts: list[HardImages] = []
    first: dict[str, Any] = {}
    for manifest, images in _read_each(Path(folder), verify, accepted_only):
        first = first or manifest
        if parts and images.shape != parts[0].shape:
            shapes = [part.shape for part in (parts[0], images)]
            raise ValueError(f"shard {manifest['shard']} in {folder} has images of {shapes[1]}, others {shapes[0]}")
        parts.append(images)
    return HardImageStore(HardImages.cat(parts), tuple(first["classes"]), first["identity"])


def save_sheets(
    source: str | Path | HardImages,
    folder: str | Path,
    *,
    most: int = 64,
    columns: int = 8,
    classes: Sequence[str] | None = None,
) -> list[Path]:
    """Save one PNG per class that has accepted images, with the first of them in a grid.

    Args:
        source: a folder written by `ShardWriter`, or images.
        folder: of the PNGs; created if it does not exist.
        most: images per class.
        columns: images per row of the grid.
        classes: names of the classes if `source` is images; None: their numbers.

    Returns:
        The paths of the PNGs.

    Raises:
        ValueError: fewer than one column or image, or not one name per class.
    """
    check_integer(columns=columns, most=most)
    picked: dict[int, list[Tensor]] = {}
    names = tuple(classes or ())
    parts = [({}, source)] if isinstance(source, HardImages) else _read_each(Path(source), True, True)
    for manifest, images in parts:
        names = names or tuple(manifest.get("classes", map(str, range(images.soft_labels.shape[1]))))
        if len(names) != images.soft_labels.shape[1]:
            count = images.soft_labels.shape[1]
            raise ValueError(f"{len(names)} classes for images of {count}: expected one name for each class")
        for row in torch.nonzero(images.accepted)[:, 0].tolist():
            chosen = picked.setdefault(int(images.labels[row]), [])
            if len(chosen) < most:
                chosen.append(images.images[row].cpu())
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for label, chosen in sorted(picked.items()):
        paths.append(Path(folder) / f"{encoding.class_folders(names)[label]}.png")
        with replacing(paths[-1]) as unfinished:
            save_image(make_grid(torch.stack(chosen).float() / 255, nrow=columns), unfinished, format="png")
    return paths


def _checked_index(index: int) -> int:
    if not is_integer(index) or not 0 <= index < MAX_SHARDS:
        raise ValueError(f"shard {index}: expected an integer from 0 to {MAX_SHARDS - 1}")
    return int(index)


def _read_each(folder: Path, verify: bool, accepted_only: bool) -> Iterator[tuple[dict[str, Any], HardImages]]:
    manifests, index = files.read_manifests(folder, strict=True), folder / "index.json"
    if not manifests:
        raise FileNotFoundError(f"no finished shard in {folder}; expected a folder that ShardWriter has written")
    first = next(iter(manifests.values()))
    if missing := sorted(files.listed_shards(index) - manifests.keys()):
        raise ValueError(f"{folder}: the index lists the shards {missing}, but they are not finished. {files.AGAIN}")
    for number, manifest in manifests.items():
        files.check_setting(folder, manifest, first)
        if problem := files.find_damage(folder, manifest) if verify else "":
            raise ValueError(f"shard {number} in {folder}: {problem}. {files.AGAIN}")
        rejected = manifest["count"] - manifest["accepted"]
        if rejected and not accepted_only and manifest["layout"] == "image_folder":
            raise ValueError(
                f"shard {number} in {folder} has {rejected} rejected images, which the layout 'image_folder' does not "
                "keep; read with accepted_only=True, or write with layout='webdataset'"
            )
        try:
            images = _read_shard(folder, manifest, accepted_only)
        except Exception as error:  # of many kinds, where files are not verified
            raise ValueError(f"shard {number} in {folder} can't be read ({error}). {files.AGAIN}") from error
        yield manifest, images


def _read_shard(folder: Path, manifest: dict[str, Any], accepted_only: bool) -> HardImages:
    facts = encoding.read_facts(folder, manifest)
    rows = torch.arange(manifest["count"], device="cpu")
    if accepted_only:
        rows = rows[facts["accepted"]]
    pixels = encoding.read_pixels(folder, manifest, facts, rows.tolist())
    return HardImages(images=pixels, **{name: values[rows] for name, values in facts.items()})
