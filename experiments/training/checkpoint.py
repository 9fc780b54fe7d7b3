"""Checkpoints that are written atomically, are read only if they are intact, and belong to one configuration."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hard_aug.utils import disk
from hard_aug.utils.files import check_zip, replacing
from hard_aug.utils.hashing import flatten

logger = logging.getLogger(__name__)


class DamagedFileError(ValueError):
    """A file that cannot be read, or does not have the content that was written."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically: a kill at any moment leaves the old file or the new one.

    Args:
        path: of the checkpoint; its folder is created.
        state: what `torch.save` takes.

    Raises:
        OSError: it could not be written, for example because the disk is full; the old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's writer replaces the system's error with its own
        left = f"{path} is unchanged" if path.is_file() else f"there is no {path} yet"
        raise OSError(
            f"the checkpoint could not be written ({error}); {left}. If its disk is "
            f"full{disk.free_space(path.parent)}, free some space; the same command resumes from there"
        ) from error


def read(path: Path) -> dict[str, Any]:
    """Read what `save` has written, on the CPU.

    Raises:
        DamagedFileError: the file is cut off or changed (torch does not compare the checksums), or no checkpoint.
        OSError: there is no such file, or its disk fails.
    """
    try:
        check_zip(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state["config"]
    except (OSError, MemoryError):
        raise
    except Exception as error:  # of many kinds
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise DamagedFileError(
            f"{path} is damaged, or no checkpoint ({reason}); remove it, and run "
            "the command that made it again (that of a finished run with resume=false)"
        ) from error
    return state


def read_or_remove(path: Path) -> dict[str, Any] | None:
    """Read a file of a cache; return None if there is none, or it was damaged, which is logged, and is removed now."""
    if not path.is_file():
        return None
    try:
        return read(path)
    except DamagedFileError as error:
        logger.warning("%s is damaged and is made again (%s)", path, error.__cause__)
        path.unlink()
        return None


def load(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Load the state in `path`, or return None if there is no such file.

    Args:
        path: of the checkpoint.
        identity: the settings that it depends on, saved as `config`.

    Raises:
        DamagedFileError: the file cannot be read.
        ValueError: the checkpoint belongs to another configuration; names what differs.
    """
    if not path.is_file():
        return None
    state = read(path)
    check_same(path, state["config"], identity)
    return state


def check_same(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Check that what an earlier run left in `path` has the same configuration.

    Raises:
        ValueError: they differ; names what differs and what to do.
    """
    if theirs == ours:
        return
    there, here = flatten(theirs), flatten(ours)
    differing = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    listed = "; ".join(f"{key}: {there.get(key)} there, {here.get(key)} here" for key in differing)
    raise ValueError(
        f"{path} is of a run with another configuration ({listed}). Choose another folder with hydra.run.dir=... (in a "
        "multirun hydra.sweep.dir=...), or start this one again with resume=false"
    )


def digest(*models: nn.Module) -> str:
    """Return a hexadecimal digest of all weights and buffers of some models."""
    found = hashlib.sha256()
    for model in models:
        for name, value in model.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]
