"""Names and contents of the files of a shard, in both layouts; see `hard_aug.data.shards`."""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hard_aug.data.hard_images import HardImages

#: Fields of `HardImages` with one value per image, and their names in the JSON of a sample.
SCALARS = {"seeds": "seed", "scores_before": "score_before", "scores_after": "score_after"}
SCALARS |= {"accepted": "accepted", "source": "source"}


def shard_name(index: int) -> str:
    """Return the name of a shard, without a suffix."""
    return f"shard-{index:06d}"


def image_key(index: int, row: int) -> str:
    """Return the key of an image: the number of its shard and of its row."""
    return f"{index:06d}{row:05d}"


def class_folders(classes: Sequence[str]) -> list[str]:
    """Return folder names that sort in the order of the labels and are safe on every file system."""
    digits = max(2, len(str(len(classes) - 1)))
    return [f"{label:0{digits}d}_{re.sub(r'[^A-Za-z0-9 .-]', '_', c)[:60].strip()}" for label, c in enumerate(classes)]


def image_path(key: str, label: int, folders: Sequence[str]) -> str:
    """Return the path of an accepted image in the layout `image_folder`."""
    return f"images/{folders[label]}/{key}.png"


def to_json(content: Any, indent: int | None = 1) -> bytes:
    """Encode as JSON: equal content gives equal bytes."""
    return json.dumps(content, indent=indent, sort_keys=True).encode()


def encode_archives(index: int, images: HardImages, classes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Encode a shard in the layout `webdataset`: an archive of accepted images, and of rejected ones if there are any.

    Args:
        index: number of the shard.
        images: its rows.
        classes: name of each class; not used in this layout.

    Yields:
        Name and content of each file.
    """
    yield archive_name(index, accepted=True), _encode_tar(index, images, images.accepted)
    if not bool(images.accepted.all()):
        yield archive_name(index, accepted=False), _encode_tar(index, images, ~images.accepted)


def archive_name(index: int, *, accepted: bool) -> str:
    """Return the name of the archive that holds the accepted or the rejected images of a shard."""
    return f"{shard_name(index)}.tar" if accepted else f"rejected-{index:06d}.tar"


def _encode_tar(index: int, images: HardImages, chosen: Tensor) -> bytes:
    everything = io.BytesIO()
    facts = {stored: getattr(images, name).tolist() for name, stored in SCALARS.items()}
    labels, soft_labels, pixels = images.labels.tolist(), images.soft_labels.tolist(), images.images.cpu().numpy()
    with tarfile.open(fileobj=everything, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in torch.nonzero(chosen)[:, 0].tolist():
            about: dict[str, Any] = {"soft_labels": [_finite_or_none(p) for p in soft_labels[row]]}
            about |= {name: _finite_or_none(values[row]) for name, values in facts.items()}
            members = {
                "png": _encode_png(pixels[row]),
                "cls": str(labels[row]).encode(),
                "json": to_json(about, indent=None),
            }
            for ending, data in members.items():
                member = tarfile.TarInfo(f"{image_key(index, row)}.{ending}")  # its time and owner are 0
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return everything.getvalue()


def encode_image_folder(index: int, images: HardImages, classes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Encode a shard in the layout `image_folder`: everything but the images, then a PNG for each accepted image.

    Args:
        index: number of the shard.
        images: its rows.
        classes: name of each class.

    Yields:
        Name and content of each file.
    """
    facts = io.BytesIO()
    names = [field.name for field in fields(images) if field.name != "images"]
    np.savez(facts, **{name: getattr(images, name).cpu().numpy() for name in names})
    yield f"{shard_name(index)}.npz", facts.getvalue()
    folders, labels, pixels = class_folders(classes), images.labels.tolist(), images.images.cpu().numpy()
    for row in torch.nonzero(images.accepted)[:, 0].tolist():
        yield image_path(image_key(index, row), labels[row], folders), _encode_png(pixels[row])


def read_facts(folder: Path, manifest: dict[str, Any]) -> dict[str, Tensor]:
    """Read all fields of a finished shard but its images, rejected rows included.

    Args:
        folder: of the store.
        manifest: of the shard.
    """
    if manifest["layout"] == "image_folder":
        with np.load(folder / f"{shard_name(manifest['shard'])}.npz", allow_pickle=False) as stored:
            return {name: torch.from_numpy(stored[name]) for name in stored.files}
    labels, rows = [], []
    for name, data in _read_members(folder, manifest):
        if name.endswith(".cls"):
            labels.append(int(data))
        elif name.endswith(".json"):
            rows.append(json.loads(data))
    soft = [[math.nan if p is None else p for p in row["soft_labels"]] for row in rows]
    found = {
        "labels": torch.tensor(labels, dtype=torch.int64, device="cpu"),
        "soft_labels": torch.tensor(soft, dtype=torch.float32, device="cpu").reshape(
            len(rows), len(manifest["classes"])
        ),
    }
    for name, stored in SCALARS.items():
        kind = torch.float32 if "score" in name else torch.bool if name == "accepted" else torch.int64
        column = [math.nan if r[stored] is None else r[stored] for r in rows]
        found[name] = torch.tensor(column, dtype=kind, device="cpu")
    return found


def read_pixels(folder: Path, manifest: dict[str, Any], facts: dict[str, Tensor], rows: Sequence[int]) -> Tensor:
    """Decode the images of some rows of a finished shard, `(N, C, H, W)` uint8.

    Args:
        folder: of the store.
        manifest: of the shard.
        facts: what `read_facts` returns.
        rows: in ascending order; rows whose images the layout stores.
    """
    index, expected = manifest["shard"], set(rows)
    found = torch.empty(len(expected), *manifest["shape"], dtype=torch.uint8, device="cpu")
    if manifest["layout"] == "image_folder":
        folders, labels = class_folders(manifest["classes"]), facts["labels"].tolist()
        for place, row in enumerate(rows):
            data = (folder / image_path(image_key(index, row), labels[row], folders)).read_bytes()
            found[place] = _decode_png(data)
        return found
    place = 0
    for name, data in _read_members(folder, manifest):
        if name.endswith(".png") and int(name[6:11]) in expected:
            found[place] = _decode_png(data)
            place += 1
    return found


def _read_members(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield the members of a shard's archives in the order of the rows."""
    found: list[tuple[str, bytes]] = []
    for name in manifest["sha256"]:
        with tarfile.open(folder / name) as tar:
            found += [(m.name, file.read()) for m in tar if (file := tar.extractfile(m)) is not None]
    yield from sorted(found, key=lambda member: member[0].partition(".")[0])


def _encode_png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    image = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    Image.fromarray(image).save(data, format="PNG")
    return data.getvalue()


def _decode_png(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN
