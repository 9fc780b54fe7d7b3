"""The identity of a run: all settings that its outcome depends on, which name its folder and group it in reports."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.configuration.settings import trial_settings
from hard_aug.utils.hashing import cache_key, flatten

#: Keys that change how a run is executed but not its outcome, and those that only `method` refers to.
EXCLUDED = (
    "hydra",
    "threads",
    "device",
    "resume",
    "log_every",
    "checkpoint_every",
    "teacher_cache",
    "logger",
    "logger_settings",
    "select_on",
    "trial",
    "trials",
    "settings_from",
    "augmenter",
    "generation",
    "search",
    "student_from",
    "tune",
)
HASH_DIGITS = 10
#: Keys, at any depth, of files and folders whose content a run depends on, and the parts of a folder that count.
FILES = ("weights", "student_from", "other_student_from", "folder", "models")
PARTS = ("*.pt", "*.safetensors", "*/*.safetensors", "index.json", "*/config.json")


def resolved(node: DictConfig) -> dict[str, Any]:
    """Return a node of a configuration as plain dictionaries and lists, with interpolations resolved."""
    found: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]  # a mapping
    return found


def run_identity(config: DictConfig) -> dict[str, Any]:
    """Return all settings that a run depends on; of the augmenter what the method uses, as a part of `method`."""
    return _with_contents(_settings(config))


def _settings(config: DictConfig) -> dict[str, Any]:
    whole = resolved(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    found: dict[str, Any] = _without_devices({key: whole[key] for key in whole if key not in EXCLUDED})
    return found


def _with_contents(settings: dict[str, Any]) -> dict[str, Any]:
    """Add digests of the files and folders that some settings name."""
    contents = {key: _digest(Path(value)) for key, value in flatten(settings).items() if _is_file(key, value)}
    return settings | ({"contents": contents} if contents else {})


def _is_file(key: str, value: Any) -> bool:
    return key.rpartition(".")[2] in FILES and isinstance(value, str) and Path(value).exists()


def _digest(path: Path) -> str:
    """Return a digest of a file, or of the parts of a folder: the same path may hold other weights later."""
    files = [path] if path.is_file() else sorted({file for part in PARTS for file in path.glob(part)})
    found = hashlib.sha256()
    for file in files:
        found.update(os.fsencode(file.name) + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:16]


def _without_devices(node: Any) -> Any:
    """Leave out where and how data and networks are held, wherever a node names it."""
    if isinstance(node, dict):
        return {key: _without_devices(value) for key, value in node.items() if key not in ("device", "in_memory")}
    return [_without_devices(value) for value in node] if isinstance(node, list) else node


def group_identity(config: DictConfig) -> dict[str, Any]:
    """Return what runs have in common that are compared with each other: all but method and seed."""
    found = {key: value for key, value in _settings(config).items() if key not in ("method", "seed")}
    return _with_contents(found) | {"select_on": config.select_on}


def run_hash(config: DictConfig, *further: str) -> str:
    """Return a hexadecimal digest of the run's identity, of the settings of its trial, and of further nodes."""
    settings, _ = trial_settings(config)
    nodes = {key: OmegaConf.to_container(config, resolve=True)[key] for key in further}  # type: ignore[index]  # a mapping
    return cache_key({"config": run_identity(config), "settings": settings, **nodes})[:HASH_DIGITS]
