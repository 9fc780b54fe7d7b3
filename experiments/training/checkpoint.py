"""Checkpoint of a run: the finished students, and the last saved step of the one that was being trained."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from hard_aug.utils import disk
from hard_aug.utils.hashing import flatten

#: Settings added later, with the value that changes nothing; at that value they are not part of a run's identity.
NEUTRAL: dict[str, Any] = {
    "data.fraction": 1.0,
    "data.crop_padding": 0,
    "data.flip": False,
    "teacher.fraction": None,
    "budget": "steps",
    "select_on": "main",
    "eval_every": None,
    "trials_from": None,
    "failure_metrics": {"judge": False, "other_student": False},
}


def config_identity(config: DictConfig, free: Collection[str]) -> dict[str, Any]:
    """Return all settings that the outcome of a run depends on, with interpolations resolved.

    Args:
        config: of the run.
        free: keys, `outer` or `outer.inner`, of settings that do not change the outcome. Those in `NEUTRAL` are left
            out too, at the value given there.
    """
    found = resolved(config)
    for path in (*free, *NEUTRAL):
        *above, key = path.split(".")
        node = found
        for part in above:
            node = node.get(part) or {}
        if key in node and (path in free or node[key] == NEUTRAL[path]):
            del node[key]
    return found


def resolved(node: DictConfig) -> dict[str, Any]:
    """Return a node of a configuration as plain dictionaries and lists, with interpolations resolved."""
    found: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]  # a mapping
    return found


def save(path: Path, state: dict[str, Any], *, beside: Path | None = None) -> None:
    """Write a checkpoint atomically: a kill at any moment leaves the old file or the new one.

    Args:
        path: of the checkpoint.
        state: what `torch.save` takes.
        beside: temporary file that is moved to `path`; None: named after `path`.

    Raises:
        OSError: it could not be written, for example because the disk is full; the old file is unchanged.
    """
    unfinished = path.with_suffix(".tmp") if beside is None else beside
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


def digest(*models: nn.Module) -> str:
    """Return a hexadecimal digest of all weights and buffers of some models."""
    found = hashlib.sha256()
    for model in models:
        for name, value in model.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def load(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Load the state in `path`, or an empty one if there is no such file.

    Args:
        path: of the checkpoint.
        config: the run's identity.

    Raises:
        ValueError: the checkpoint belongs to another configuration; names what differs.
    """
    if not path.is_file():
        return {"config": config, "finished": {}, "current": None}
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    check_same(path, state["config"], config)
    return state


def check_same(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Check that what an earlier run left in `path` has the same configuration.

    Args:
        path: for the error message.
        theirs: configuration found there.
        ours: configuration of this run.

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
