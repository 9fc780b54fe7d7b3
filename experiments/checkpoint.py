"""The checkpoint of a run: finished students whole, and the one that was being trained up to its last saved step."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from experiments import disk

#: Settings that came later, with the value at which a run is what it was without them; then they are no part of it.
NEUTRAL: dict[str, Any] = {
    "data.fraction": 1.0,
    "data.crop_padding": 0,
    "data.flip": False,
    "teacher.fraction": None,
    "budget": "steps",
    "choose_on": "main",
    "eval_every": None,
    "trials_from": None,
    "detectors": {"judge": False, "other_student": False},
}


def identity(config: DictConfig, free: Collection[str]) -> dict[str, Any]:
    """All settings that the outcome of a run depends on, resolved: those that are not `free` and not `NEUTRAL`.

    Args:
        free: keys, `outer` or `outer.inner`.
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
    """A node of a configuration as plain dictionaries and lists, its references resolved."""
    found: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]  # a mapping
    return found


def save(path: Path, state: dict[str, Any], *, beside: Path | None = None) -> None:
    """Write beside and move over, so that a kill at any moment leaves the old file or the new one.

    Args:
        beside: the file that is moved; None: named after `path`.

    Raises:
        OSError: it could not be written, the disk being full, say; the old file is as it was.
    """
    unfinished = path.with_suffix(".tmp") if beside is None else beside
    try:
        with unfinished.open("wb") as file:
            torch.save(state, file)
        unfinished.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer turns the system's error into one of its own
        unfinished.unlink(missing_ok=True)
        left = f"{path} is as it was" if path.is_file() else f"there is no {path} yet"
        raise OSError(
            f"the checkpoint could not be written ({error}); {left}. If its disk is full{disk.room(path.parent)}, "
            "make room; the same command goes on from there"
        ) from error


def digest(*models: nn.Module) -> str:
    """Hexadecimal digest of all weights and buffers."""
    found = hashlib.sha256()
    for model in models:
        for name, value in model.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def load(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The state in `path`, or an empty one.

    Raises:
        ValueError: the checkpoint belongs to another configuration; names what differs.
    """
    if not path.is_file():
        return {"config": config, "finished": {}, "current": None}
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    check_same(path, state["config"], config)
    return state


def check_same(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse what an earlier run left in `path`, if it was of another configuration.

    Raises:
        ValueError: names what differs, and what to do.
    """
    if theirs == ours:
        return
    there, here = flatten(theirs), flatten(ours)
    differing = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    listed = "; ".join(f"{key}: {there.get(key)} there, {here.get(key)} here" for key in differing)
    raise ValueError(
        f"{path} is of a run with another configuration ({listed}). Choose another folder with hydra.run.dir=... (in a "
        "multirun hydra.sweep.dir=...), or start this one anew with resume=false"
    )


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one dictionary with dotted keys."""
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
