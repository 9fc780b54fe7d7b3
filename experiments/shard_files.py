"""The files of a store of hard images: names, contents, and how they are written so that a kill loses none.

A file is written beside, synced, and moved over its place; the manifest, which holds the hashes of the others, comes
last. So a shard with a manifest is finished, and one whose files do not have those hashes is damaged.
`experiments.shards` is what to call.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from experiments.checkpoint import flatten
from experiments.teachers import cache_key

if TYPE_CHECKING:
    from experiments.shards import HardImages

logger = logging.getLogger(__name__)
AGAIN = "Run the command that made it again: that writes this shard anew and keeps the others"
MANIFEST = {"shard", "count", "accepted", "shape", "config", "sha256", "extra", "identity", "classes", "layout"}
SCALARS = {"seeds": "seed", "scores_before": "score_before", "scores_after": "score_after"}
SCALARS |= {"accepted": "accepted", "source": "source"}


def name_of(index: int) -> str:
    """A shard's name."""
    return f"shard-{index:06d}"


def key_of(index: int, row: int) -> str:
    """An image's key."""
    return f"{index:06d}{row:05d}"


def class_folders(classes: Sequence[str]) -> list[str]:
    """Names of folders whose sorted order is the order of the labels, safe on every file system."""
    digits = max(2, len(str(len(classes) - 1)))
    return [f"{label:0{digits}d}_{re.sub(r'[^A-Za-z0-9 .-]', '_', c)[:60].strip()}" for label, c in enumerate(classes)]


def picture_of(key: str, label: int, folders: Sequence[str]) -> str:
    """An accepted image's file in the layout `image_folder`."""
    return f"images/{folders[label]}/{key}.png"


# What is in the files.


def archive(index: int, images: HardImages, classes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The files of a shard in the layout `webdataset`, name and content: accepted images, and rejected ones if any."""
    yield archive_of(index, accepted=True), _tar(index, images, images.accepted)
    if not bool(images.accepted.all()):
        yield archive_of(index, accepted=False), _tar(index, images, ~images.accepted)


def archive_of(index: int, *, accepted: bool) -> str:
    """The archive that an image of a shard is in."""
    return f"{name_of(index)}.tar" if accepted else f"rejected-{index:06d}.tar"


def _tar(index: int, images: HardImages, chosen: Tensor) -> bytes:
    everything = io.BytesIO()
    facts = {stored: getattr(images, name).tolist() for name, stored in SCALARS.items()}
    labels, soft_labels, pixels = images.labels.tolist(), images.soft_labels.tolist(), images.images.cpu().numpy()
    with tarfile.open(fileobj=everything, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in torch.nonzero(chosen)[:, 0].tolist():
            about: dict[str, Any] = {"soft_labels": [_number(p) for p in soft_labels[row]]}
            about |= {name: _number(values[row]) for name, values in facts.items()}
            members = {"png": _png(pixels[row]), "cls": str(labels[row]).encode(), "json": to_json(about, indent=None)}
            for ending, data in members.items():
                member = tarfile.TarInfo(f"{key_of(index, row)}.{ending}")  # its time and owner are 0
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return everything.getvalue()


def pictures(index: int, images: HardImages, classes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The files of a shard in the layout `image_folder`; all but the images comes first."""
    facts = io.BytesIO()
    names = [field.name for field in fields(images) if field.name != "images"]
    np.savez(facts, **{name: getattr(images, name).cpu().numpy() for name in names})
    yield f"{name_of(index)}.npz", facts.getvalue()
    folders, labels, pixels = class_folders(classes), images.labels.tolist(), images.images.cpu().numpy()
    for row in torch.nonzero(images.accepted)[:, 0].tolist():
        yield picture_of(key_of(index, row), labels[row], folders), _png(pixels[row])


def facts_of(folder: Path, manifest: dict[str, Any]) -> dict[str, Tensor]:
    """All fields of a finished shard but its images, rejected rows included."""
    if manifest["layout"] == "image_folder":
        with np.load(folder / f"{name_of(manifest['shard'])}.npz", allow_pickle=False) as stored:
            return {name: torch.from_numpy(stored[name]) for name in stored.files}
    labels, rows = [], []
    for name, data in _members(folder, manifest):
        if name.endswith(".cls"):
            labels.append(int(data))
        elif name.endswith(".json"):
            rows.append(json.loads(data))
    soft = [[math.nan if p is None else p for p in row["soft_labels"]] for row in rows]
    found = {
        "labels": torch.tensor(labels, dtype=torch.int64),
        "soft_labels": torch.tensor(soft, dtype=torch.float32).reshape(len(rows), len(manifest["classes"])),
    }
    for name, stored in SCALARS.items():
        kind = torch.float32 if "score" in name else torch.bool if name == "accepted" else torch.int64
        found[name] = torch.tensor([math.nan if r[stored] is None else r[stored] for r in rows], dtype=kind)
    return found


def pixels_of(folder: Path, manifest: dict[str, Any], facts: dict[str, Tensor], rows: Sequence[int]) -> Tensor:
    """The images of some rows of a finished shard, `(N, C, H, W)` uint8; which the layout has to keep."""
    index, wanted = manifest["shard"], set(rows)
    found = torch.empty(len(wanted), *manifest["shape"], dtype=torch.uint8)
    if manifest["layout"] == "image_folder":
        folders, labels = class_folders(manifest["classes"]), facts["labels"].tolist()
        for place, row in enumerate(rows):
            data = (folder / picture_of(key_of(index, row), labels[row], folders)).read_bytes()
            found[place] = _pixels(data)
        return found
    place = 0
    for name, data in _members(folder, manifest):
        if name.endswith(".png") and int(name[6:11]) in wanted:
            found[place] = _pixels(data)
            place += 1
    return found


def _members(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Of a shard's archives, by row."""
    found: list[tuple[str, bytes]] = []
    for name in manifest["sha256"]:
        with tarfile.open(folder / name) as tar:
            found += [(m.name, file.read()) for m in tar if (file := tar.extractfile(m)) is not None]
    yield from sorted(found, key=lambda member: member[0].partition(".")[0])


def _png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    image = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    Image.fromarray(image).save(data, format="PNG")
    return data.getvalue()


def _pixels(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


# Manifests.


def manifest_of(folder: Path, index: int) -> dict[str, Any] | None:
    """A shard's manifest; None if there is none, or none that can be read."""
    path = folder / f"{name_of(index)}.json"
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found.keys() >= MANIFEST or found["shard"] != index:
        logger.warning("%s is no manifest of that shard", path)
        return None
    return found


def manifests_of(folder: Path) -> dict[int, dict[str, Any]]:
    """All that can be read, in order."""
    indices = sorted(int(path.stem[6:]) for path in folder.glob("shard-" + "[0-9]" * 6 + ".json"))
    found = {index: manifest_of(folder, index) for index in indices}
    return {index: manifest for index, manifest in found.items() if manifest is not None}


def config_hash(setting: dict[str, Any]) -> str:
    """Of a configuration, `identity`, `classes` and `layout`."""
    return cache_key({name: setting[name] for name in ("identity", "classes", "layout")})


def check_setting(folder: Path, manifest: dict[str, Any], setting: dict[str, Any]) -> None:
    """Raise ValueError if a shard was made by another configuration; names what differs."""
    if manifest["config"] == config_hash(setting):
        return
    ours, theirs = (
        flatten({**{k: s[k] for k in ("identity", "layout")}, "classes": dict(enumerate(s["classes"]))})
        for s in (setting, manifest)
    )
    lines = []
    for key in sorted(ours.keys() | theirs.keys()):
        there, here = (repr(values[key]) if key in values else "nothing" for values in (theirs, ours))
        if there != here:
            lines.append(f"{key.removeprefix('identity.')}: {there} there, {here} here")
    more = [f"and {len(lines) - 8} more"] if len(lines) > 8 else []
    raise ValueError(
        f"{folder} holds shards of another configuration ({'; '.join(lines[:8] + more) or 'another structure'}). "
        "Give another folder, or remove this one to start anew"
    )


def damage_of(folder: Path, manifest: dict[str, Any]) -> str:
    """What is wrong with a finished shard's files; empty if nothing is."""
    for name, digest in manifest["sha256"].items():
        try:
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return f"{name} is not what was written"
        except FileNotFoundError:
            return f"{name} is missing"
    return ""


# Writing and removing.


def to_json(content: Any, indent: int | None = 1) -> bytes:
    """The same bytes for the same content."""
    return json.dumps(content, indent=indent, sort_keys=True).encode()


def put(path: Path, data: bytes) -> None:
    """Write a file that a loss of power does not take back."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make what was moved into a folder survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, data: bytes, beside: Path) -> None:
    """Write `beside` and move over; the unfinished file does not stay."""
    try:
        put(beside, data)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)


def traces_of(folder: Path, index: int) -> list[Path]:
    """Where to see that a shard was begun: the folder it is written in first, then its own files."""
    return [
        folder / f".{name_of(index)}",
        *(folder / f"{name_of(index)}.{ending}" for ending in ("json", "tar", "npz")),
        folder / archive_of(index, accepted=False),
    ]


def clear(folder: Path, index: int) -> None:
    """Remove all that is there of a shard: its manifest first, the sign that it was begun last."""
    staging, manifest, *data = traces_of(folder, index)
    if not any(path.exists() for path in (staging, manifest, *data)):
        return
    manifest.unlink(missing_ok=True)
    for path in (*folder.glob(f"images/*/{index:06d}" + "[0-9]" * 5 + ".png"), *data):
        path.unlink(missing_ok=True)
    if staging.exists():
        shutil.rmtree(staging)


def remove_strays(folder: Path, manifests: dict[int, dict[str, Any]]) -> None:
    """Remove what interrupted writes left: all of unfinished shards, and pictures that no manifest lists."""
    digits = "[0-9]" * 6
    begun = {int(path.name[-6:]): path for path in folder.glob(f".shard-{digits}")}
    for pattern in ("shard-{}.tar", "shard-{}.npz", "rejected-{}.tar"):
        begun |= {int(path.stem[-6:]): path for path in folder.glob(pattern.format(digits))}
    for index in sorted(begun.keys() - manifests.keys()):
        logger.warning("shard %d in %s was interrupted and is left out", index, folder)
        clear(folder, index)
    for path in folder.glob(f".shard-{digits}"):
        shutil.rmtree(path)
    listed = {name for manifest in manifests.values() for name in manifest["sha256"]}
    for path in folder.glob(f"images/*/{digits}" + "[0-9]" * 5 + ".png"):
        if path.relative_to(folder).as_posix() not in listed:
            path.unlink()
    for path in folder.glob("images/*"):
        with suppress(OSError):  # folders that hold something stay
            path.rmdir()
