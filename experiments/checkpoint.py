"""The checkpoint of a run: finished students whole, and the one that was being trained up to its last saved step."""

from __future__ import annotations

import shutil
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
        room = f" ({shutil.disk_usage(path.parent).free / 2**20:.0f} MiB are free)" if path.parent.is_dir() else ""
        raise OSError(
            f"the checkpoint could not be written ({error}); {left}. Make room{room} and start the same command again: "
            "it goes on from there"
        ) from error


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
