"""Resumable sweeps: each configuration has its own folder, and finished runs are not repeated.

Importing this module registers two resolvers for Hydra's configurations (`default_of` is in `experiments.configuration.resolvers`):

| resolver | value |
|---|---|
| `${config_hash:}` | digest of all settings that the outcome depends on, without Hydra's own |
| `${run_name:${hydra.job.override_dirname}}` | name of a run's folder: the shortened overrides and the digest |
"""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.configuration.run import run_identity
from experiments.configuration.students import VALIDATION
from experiments.configuration.trial_selection import RESULTS
from experiments.runs import status
from experiments.training import checkpoint
from hard_aug.utils.hashing import cache_key

logger = logging.getLogger(__name__)
#: Hexadecimal digits of the digest.
HASH_DIGITS = 10
#: Bytes of the overrides in a folder's name; file systems allow names of 255 bytes.
MAX_READABLE = 100


def config_hash(config: DictConfig) -> str:
    """Return the hexadecimal digest of all settings that a run's outcome depends on.

    Args:
        config: composed, with or without the node `hydra`.

    Raises:
        omegaconf.errors.OmegaConfBaseException: a setting cannot be resolved; the error names it.
    """
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return cache_key(run_identity(own))[:HASH_DIGITS]


def run_name(overrides: str, digest: str) -> str:
    """Return a name for a run's folder that is valid on every file system and in a shell, of at most 111 bytes.

    Args:
        overrides: such as `hydra.job.override_dirname`; invalid characters are replaced by `_`.
        digest: distinguishes configurations whose overrides have the same beginning.
    """
    safe = re.sub(r"[^A-Za-z0-9.,=+_-]+", "_", overrides)
    if len(safe) > MAX_READABLE:  # cut at the end of a setting, if there is one
        safe = safe[:MAX_READABLE].rpartition(",")[0] or safe[:MAX_READABLE]
    readable = safe.strip("._,-")
    return f"{readable}-{digest}" if readable else digest


def _name_resolver(overrides: str | None = None, *, _root_: DictConfig) -> str:
    return run_name(overrides or "", config_hash(_root_))


def register() -> None:
    """Register the resolvers; importing this module has done so."""
    OmegaConf.register_new_resolver("config_hash", lambda *, _root_: config_hash(_root_), replace=True)
    OmegaConf.register_new_resolver("run_name", _name_resolver, replace=True)


register()


def finished(folder: Path, config: DictConfig) -> dict[str, Any] | None:
    """Return the results of a finished run of this configuration, or None if the folder has none.

    With `resume=false` earlier results are removed, so that they are not mistaken for those of a new, killed run.

    Args:
        folder: of the run.
        config: composed, without the node `hydra`.

    Raises:
        ValueError: the results are of another configuration; the error names the differences.
    """
    path = folder / RESULTS
    if not config.resume:
        if status.first_process():
            path.unlink(missing_ok=True)
        return None
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        theirs = found["config"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} contains no valid results ({error}); start the run anew with resume=false") from error
    checkpoint.check_same(path, theirs, json.loads(json.dumps(run_identity(config))))
    return found


def check_sweep_metric(config: DictConfig) -> None:
    """Raise before any work if the sweep metric is of a student that this configuration does not train.

    Raises:
        ValueError: the error lists the students.
    """
    name, known = config.sweep_metric.student, list(config.students)
    if name is not None and name not in (*known, "random_tuned"):
        raise ValueError(f"sweep_metric.student={name}: expected one of students={known}, or null for the last of them")


def sweep_metric(metrics: dict[str, Any], config: DictConfig) -> float:
    """Return the value that is reported to the sweeper: the accuracy, in [0, 1], of one student on one set.

    Args:
        metrics: the contents of `metrics.json`.
        config: composed, without the node `hydra`.

    Raises:
        ValueError: the student or the set is unknown; the error lists the known ones.
    """
    name, key = config.sweep_metric.student or config.students[-1], config.sweep_metric["set"]
    students, sets = metrics["students"], [VALIDATION, *metrics["sets"]]
    for setting, value, expected in (("student", name, list(students)), ("set", key, sets)):
        if value not in expected:
            raise ValueError(
                f"sweep_metric.{setting}={value}: expected one of {', '.join(expected)}; the run is finished, and the "
                "same command with a valid value returns at once"
            )
    return float(students[name][key])


class SweepCallback(Callback):
    """Resume a killed Optuna study before a multirun, and report the runs that failed after it.

    The basic sweeper re-raises the errors of failed runs at the end; Optuna's does not, so this callback exits with
    status 1.
    """

    def __init__(self) -> None:
        self.started = ""

    def on_multirun_start(self, config: DictConfig, config_name: str | None = None) -> None:  # type: ignore[override]  # Hydra passes it by name
        """Resume the study of a killed multirun, if the sweeper is Optuna's.

        Args:
            config: of the multirun, with the node `hydra`.
            config_name: unused.
        """
        self.started = status.now()
        sweeper = config.hydra.sweeper
        if "OptunaSweeper" in str(sweeper.get("_target_")) and isinstance(sweeper.storage, str):
            from experiments.runs.optuna_resume import resume, study_name, unsupported_reason

            if reason := unsupported_reason(config):
                sys.exit(f"error: {reason}")  # Hydra turns exceptions of a callback into warnings
            Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
            with open_dict(config.hydra.sweeper):
                if sweeper.study_name is None:
                    sweeper.study_name = study_name(config)
                resume(sweeper)

    def on_multirun_end(self, config: DictConfig, config_name: str | None = None) -> None:  # type: ignore[override]  # Hydra passes it by name
        """Log the failed runs of this multirun and exit with status 1 if there are any.

        Args:
            config: of the multirun, with the node `hydra`.
            config_name: unused.
        """
        found = status.find([Path(config.hydra.sweep.dir)])
        failed = {
            folder: one
            for folder, one in found.items()
            if one["state"] == status.FAILED and one["started"] >= self.started
        }
        for folder, one in failed.items():
            logger.error("failed: %s: %s: %s", folder, one["error"]["type"], one["error"]["message"])
        if failed:
            sys.exit(1)
