"""Settings of a trial: `trial=<number>` selects one of the configuration, `settings_from=<file>` those of a report.

Settings are lists of Hydra overrides by method. A trial is composed again with its settings as further overrides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


def trial_settings(config: DictConfig) -> tuple[list[str], int]:
    """Return the overrides of the run's trial, and the number of trials that they are selected from.

    Raises:
        FileNotFoundError: there is no file `settings_from`.
        ValueError: there is no such trial, or the file has no settings of this method.
    """
    method, path = config.method.name, config.get("settings_from")
    if path is not None:
        if config.get("trial") is not None:
            raise ValueError("trial and settings_from both choose settings; expected one of them")
        return _from_file(Path(path), method)
    if config.get("trial") is None:
        return [], 1
    node = OmegaConf.select(config, f"trials.{method}")
    trials: Any = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node or []
    if not isinstance(trials, list):
        raise ValueError(f"trials.{method}={trials}: expected a list of trials, such as [[temperature=4.0]]")
    if not (isinstance(config.trial, int) and 0 <= config.trial < len(trials)):
        known = f"0 to {len(trials) - 1}" if trials else f"null, since trials.{method} declares none"
        raise ValueError(f"trial={config.trial} of method={method}: expected {known}")
    return check_settings(f"trials.{method}.{config.trial}", trials[config.trial]), 1


def check_settings(where: str, settings: Any) -> list[str]:
    """Return the settings if they are a list of overrides.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(settings, list) or not all(isinstance(one, str) and "=" in one for one in settings):
        raise ValueError(f"{where}={settings}: expected a list of overrides, such as [temperature=4.0]")
    return settings


def _from_file(path: Path, method: str) -> tuple[list[str], int]:
    if not path.is_file():
        raise FileNotFoundError(
            f"settings_from={path}: no such file; python -m experiments.report <runs> --select <file> writes one"
        )
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"settings_from={path} is damaged, no YAML ({reason}); write it again with --select"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(one, dict) and "settings" in one for one in found.values()):
        raise ValueError(f"settings_from={path}: expected a file written by experiments.report --select")
    if method not in found:
        known = ", ".join(map(str, found))
        raise ValueError(f"settings_from={path}: no settings for method={method}; it has {known}")
    return check_settings(f"{path}: {method}", found[method].get("settings", [])), int(found[method].get("trials", 1))


def compose_with(settings: list[str]) -> DictConfig:
    """Compose the configuration of the running Hydra job again with further overrides.

    Raises:
        ValueError: the command line sets one of them to another value.
    """
    hydra = HydraConfig.get()
    chosen = {one.split("=", 1)[0].lstrip("+~"): one for one in settings}
    given: list[str] = list(hydra.overrides.task)
    for one in given:
        other = chosen.get(one.split("=", 1)[0].lstrip("+~"), one)
        if other != one:
            raise ValueError(f"{one} on the command line and {other} of the trial or settings_from; leave one out")
    return compose(hydra.job.config_name, [*(one for one in given if one not in settings), *settings])
