"""The checkpoint of a run: finished students whole, and the one that was being trained up to its last saved step."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

#: Settings that came later, with the value at which a run is what it was without them; then they are no part of it.
NEUTRAL: dict[str, Any] = {"data.fraction": 1.0, "choose_on": "main", "eval_every": None}


def identity(config: DictConfig, free: Collection[str]) -> dict[str, Any]:
    """All settings that the outcome of a run depends on, resolved: those that are not `free` and not `NEUTRAL`.

    Args:
        free: keys, `outer` or `outer.inner`.
    """
    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]  # a mapping
    for path in free:
        _without(resolved, path)
    for path, value in NEUTRAL.items():
        _without(resolved, path, lambda found, value=value: bool(found == value))  # type: ignore[misc]
    return resolved


def _without(config: dict[str, Any], path: str, when: Callable[[Any], bool] = lambda found: True) -> None:
    """Take a setting out, where it is there and `when` says so."""
    *above, key = path.split(".")
    for part in above:
        config = config.get(part) or {}
    if key in config and when(config[key]):
        del config[key]


def save(path: Path, state: dict[str, Any]) -> None:
    """Write beside and move over, so that a kill at any moment leaves the old file or the new one."""
    unfinished = path.with_suffix(".tmp")
    torch.save(state, unfinished)
    unfinished.replace(path)


def load(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The state in `path`, or an empty one.

    Raises:
        ValueError: the checkpoint belongs to another configuration; names what differs.
    """
    if not path.is_file():
        return {"config": config, "finished": {}, "current": None}
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["config"] != config:
        ours, theirs = flatten(config), flatten(state["config"])
        differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        listed = "; ".join(f"{k}: {theirs.get(k)} there, {ours.get(k)} here" for k in differing)
        raise ValueError(
            f"{path} is of a run with another configuration ({listed}). "
            "Choose another folder with hydra.run.dir=... (in a multirun hydra.sweep.dir=...), or start this one anew "
            "with resume=false"
        )
    return state


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one dictionary with dotted keys."""
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
