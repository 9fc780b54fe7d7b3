"""Checkpoints that are written atomically and belong to one configuration."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hard_aug.utils import disk
from hard_aug.utils.hashing import flatten


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically: a kill at any moment leaves the old file or the new one.

    Args:
        path: of the checkpoint; its folder is created.
        state: what `torch.save` takes.

    Raises:
        OSError: it could not be written, for example because the disk is full; the old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")  # runs may share a folder of teachers
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer replaces the system's error with its own
        unfinished.unlink(missing_ok=True)
        left = f"{path} is unchanged" if path.is_file() else f"there is no {path} yet"
        raise OSError(
            f"the checkpoint could not be written ({error}); {left}. If its disk is "
            f"full{disk.free_space(path.parent)}, free some space; the same command resumes from there"
        ) from error


def load(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Load the state in `path`, or return None if there is no such file.

    Args:
        path: of the checkpoint.
        identity: the settings that it depends on, saved as `config`.

    Raises:
        ValueError: the checkpoint belongs to another configuration; names what differs.
    """
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
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
