"""The identity of a run: all settings that its outcome depends on, which name its folder and group it in reports."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.configuration.settings import trial_settings
from hard_aug.utils.hashing import cache_key

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


def resolved(node: DictConfig) -> dict[str, Any]:
    """Return a node of a configuration as plain dictionaries and lists, with interpolations resolved."""
    found: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]  # a mapping
    return found


def run_identity(config: DictConfig) -> dict[str, Any]:
    """Return all settings that a run depends on; of the augmenter what the method uses, as a part of `method`."""
    whole = resolved(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
    found: dict[str, Any] = _without_devices({key: whole[key] for key in whole if key not in EXCLUDED})
    return found


def _without_devices(node: Any) -> Any:
    """Leave out where and how data and networks are held, wherever a node names it."""
    if isinstance(node, dict):
        return {key: _without_devices(value) for key, value in node.items() if key not in ("device", "in_memory")}
    return [_without_devices(value) for value in node] if isinstance(node, list) else node


def group_identity(config: DictConfig) -> dict[str, Any]:
    """Return what runs have in common that are compared with each other: all but method and seed."""
    found = {key: value for key, value in run_identity(config).items() if key not in ("method", "seed")}
    return found | {"select_on": config.select_on}


def run_hash(config: DictConfig) -> str:
    """Return a hexadecimal digest of the run's identity and of the settings of its trial."""
    settings, _ = trial_settings(config)
    return cache_key({"config": run_identity(config), "settings": settings})[:HASH_DIGITS]
