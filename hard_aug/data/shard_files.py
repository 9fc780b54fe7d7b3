"""Manifests of shards, and writing and removing their files so that a kill loses no finished shard.

A file is written next to its place, synced, and moved there; the manifest, which holds the hashes of the others, comes
last. So a shard with a manifest is finished, and one whose files do not have those hashes is damaged. The public
interface is `hard_aug.data.shards`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from hard_aug.data.shard_encoding import archive_name, shard_name
from hard_aug.utils.hashing import cache_key, flatten

logger = logging.getLogger(__name__)
AGAIN = "Run the command that generated it again: it rewrites this shard and keeps the others"
MANIFEST = {"shard", "count", "accepted", "shape", "config", "sha256", "extra", "identity", "classes", "layout"}


def read_manifest(folder: Path, index: int) -> dict[str, Any] | None:
    """Return the manifest of a shard; None if there is none or it cannot be read, which is logged."""
    path = folder / f"{shard_name(index)}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found.keys() >= MANIFEST or found["shard"] != index or not _is_sealed(found):
        logger.warning("%s is not the manifest of that shard, or is damaged", path)
        return None
    return found


def read_manifests(folder: Path, *, strict: bool = False) -> dict[int, dict[str, Any]]:
    """Return all readable manifests by number of the shard, in order.

    Args:
        folder: of the store.
        strict: raise for one that cannot be read.

    Raises:
        ValueError: one cannot be read, and `strict`.
    """
    paths = {int(path.stem[6:]): path for path in sorted(folder.glob("shard-" + "[0-9]" * 6 + ".json"))}
    read = {index: read_manifest(folder, index) for index in paths}
    found = {index: manifest for index, manifest in read.items() if manifest is not None}
    if strict and (damaged := [paths[index] for index in read if index not in found and paths[index].exists()]):
        raise ValueError(f"{damaged[0]} is damaged. {AGAIN}")
    return found


def listed_shards(index: Path) -> set[int]:
    """Return the numbers of the shards that an `index.json` lists; none if there is no such file.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return {int(number) for number in json.loads(index.read_text(encoding="utf-8"))["shards"]}
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{index} is damaged ({error}). Remove it, or run the command that generated it again"
        ) from error


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest with a digest of its content."""
    return manifest | {"digest": cache_key(manifest)}


def _is_sealed(manifest: dict[str, Any]) -> bool:
    """Return whether the content is what the digest is of; manifests of earlier versions have none."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return "digest" not in manifest or manifest["digest"] == cache_key(content)


def config_hash(setting: dict[str, Any]) -> str:
    """Return the hash of a configuration: `identity`, `classes` and `layout`."""
    return cache_key({name: setting[name] for name in ("identity", "classes", "layout")})


def check_setting(folder: Path, manifest: dict[str, Any], setting: dict[str, Any]) -> None:
    """Check that a shard was made with a configuration.

    Args:
        folder: of the store, for the message.
        manifest: of the shard.
        setting: `identity`, `classes` and `layout`.

    Raises:
        ValueError: it was made with another configuration; names what differs.
    """
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
        "Choose another folder, or remove this one to start again"
    )


def find_damage(folder: Path, manifest: dict[str, Any]) -> str:
    """Return what is wrong with the files of a finished shard; an empty string if they are intact."""
    for name, digest in manifest["sha256"].items():
        try:
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return f"{name} is not what was written"
        except FileNotFoundError:
            return f"{name} is missing"
    return ""


def write_synced(path: Path, data: bytes) -> None:
    """Write a file so that it survives a power loss."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def paths_of(folder: Path, index: int) -> list[Path]:
    """Return the paths that a shard may occupy: its staging folder, its manifest, then its data files."""
    return [
        folder / f".{shard_name(index)}",
        *(folder / f"{shard_name(index)}.{ending}" for ending in ("json", "tar", "npz")),
        folder / archive_name(index, accepted=False),
    ]


def remove_shard(folder: Path, index: int) -> None:
    """Remove everything of a shard: the manifest first and the staging folder, the sign that it was begun, last."""
    staging, manifest, *data = paths_of(folder, index)
    if not any(path.exists() for path in (staging, manifest, *data)):
        return
    manifest.unlink(missing_ok=True)
    for path in (*folder.glob(f"images/*/{index:06d}" + "[0-9]" * 5 + ".png"), *data):
        path.unlink(missing_ok=True)
    if staging.exists():
        shutil.rmtree(staging)


def remove_strays(folder: Path, manifests: dict[int, dict[str, Any]]) -> None:
    """Remove what interrupted writes left: all files of unfinished shards, and images that no manifest lists.

    Args:
        folder: of the store.
        manifests: of the finished shards, by number.
    """
    digits = "[0-9]" * 6
    begun = {int(path.name[-6:]): path for path in folder.glob(f".shard-{digits}")}
    for pattern in ("shard-{}.tar", "shard-{}.npz", "rejected-{}.tar"):
        begun |= {int(path.stem[-6:]): path for path in folder.glob(pattern.format(digits))}
    for index in sorted(begun.keys() - manifests.keys()):
        logger.warning("shard %d in %s was interrupted and is left out", index, folder)
        remove_shard(folder, index)
    for path in folder.glob(f".shard-{digits}"):
        shutil.rmtree(path)
    listed = {name for manifest in manifests.values() for name in manifest["sha256"]}
    for path in folder.glob(f"images/*/{digits}" + "[0-9]" * 5 + ".png"):
        if path.relative_to(folder).as_posix() not in listed:
            path.unlink()
    for path in folder.glob("images/*"):
        with suppress(OSError):  # folders that hold something stay
            path.rmdir()
