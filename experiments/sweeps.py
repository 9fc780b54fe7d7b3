"""Sweeps that can be started again: a fixed folder for each configuration, and what is done is not done twice.

Importing this module registers two resolvers for configurations of Hydra:

| resolver | what it gives |
|---|---|
| `${config_hash:}` | digest of all settings that the outcome depends on; neither Hydra's own nor the free ones |
| `${run_name:${hydra.job.override_dirname}}` | a folder's name: the overrides, shortened, and the digest |
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

from experiments import checkpoint, status
from experiments.chosen import RESULTS
from experiments.experiment import VALIDATION, identity
from experiments.teachers import cache_key

logger = logging.getLogger(__name__)
#: Characters of the digest, and bytes of the overrides beside it; file systems take names of 255 bytes.
DIGITS, READABLE = 10, 100


def config_hash(config: DictConfig) -> str:
    """Hexadecimal digest of all settings that a run's outcome depends on.

    Args:
        config: composed, with or without the node `hydra`.

    Raises:
        omegaconf.errors.OmegaConfBaseException: a setting that cannot be resolved; names it.
    """
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return cache_key(identity(own))[:DIGITS]


def run_name(overrides: str, digest: str) -> str:
    """A name for a run's folder: safe on every file system and in a shell, of at most 111 bytes.

    Args:
        overrides: such as `hydra.job.override_dirname`; what no name can have becomes `_`.
        digest: tells configurations apart whose overrides are cut to the same beginning.
    """
    safe = re.sub(r"[^A-Za-z0-9.,=+_-]+", "_", overrides)
    if len(safe) > READABLE:  # at the end of a setting, where there is one
        safe = safe[:READABLE].rpartition(",")[0] or safe[:READABLE]
    readable = safe.strip("._,-")
    return f"{readable}-{digest}" if readable else digest


def _hash_resolver(*, _root_: DictConfig) -> str:
    return config_hash(_root_)


def _name_resolver(overrides: str | None = None, *, _root_: DictConfig) -> str:
    return run_name(overrides or "", config_hash(_root_))


def register() -> None:
    """Make the resolvers known; importing this module has done it."""
    OmegaConf.register_new_resolver("config_hash", _hash_resolver, replace=True)
    OmegaConf.register_new_resolver("run_name", _name_resolver, replace=True)


register()


def finished(folder: Path, config: DictConfig) -> dict[str, Any] | None:
    """The results of a finished run of this configuration; None: the folder has none.

    With `resume=false` former results are removed, so that a kill cannot pass them off as those of the new run.

    Raises:
        ValueError: the results of another configuration; names what differs.
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
        raise ValueError(f"{path} holds no results of a run ({error}); start it anew with resume=false") from error
    checkpoint.check_same(path, theirs, json.loads(json.dumps(identity(config))))
    return found


def check_returns(config: DictConfig) -> None:
    """Refuse, before any work, to return what no run of this configuration has.

    Raises:
        ValueError: names the student and those that there are.
    """
    name, known = config.returns.student, list(config.students)
    if name is not None and name not in (*known, "random_tuned"):
        raise ValueError(f"returns.student={name}: wanted one of students={known}, or null for the last of them")


def returned(metrics: dict[str, Any], config: DictConfig) -> float:
    """What a run returns to the sweeper: an accuracy in [0, 1], of one student on one set.

    Raises:
        ValueError: names the set, or the student, and what there is.
    """
    name, of = config.returns.student or config.students[-1], config.returns.of
    students, sets = metrics["students"], [VALIDATION, *metrics["sets"]]
    for key, value, wanted in (("student", name, list(students)), ("of", of, sets)):
        if value not in wanted:
            raise ValueError(
                f"returns.{key}={value}: wanted one of {', '.join(wanted)}; the run is done and kept, and the same "
                "command with another one returns at once"
            )
    return float(students[name][of])


class SweepCallback(Callback):
    """Before a multirun, take up a study of Optuna that was killed; after it, name the runs that failed.

    The basic sweeper raises what a run failed with once all have been tried; Optuna's goes on in silence, and so the
    process ends here with status 1.
    """

    def __init__(self) -> None:
        self.started = ""

    def on_multirun_start(self, config: DictConfig, config_name: str | None = None) -> None:  # type: ignore[override]  # Hydra gives it by name
        self.started = status.now()
        sweeper = config.hydra.sweeper
        if "OptunaSweeper" in str(sweeper.get("_target_")) and isinstance(sweeper.storage, str):
            from experiments.studies import refuse, resume, study_name

            if why := refuse(config):
                sys.exit(f"error: {why}")  # Hydra takes what a callback raises for a warning
            Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
            with open_dict(config.hydra.sweeper):
                if sweeper.study_name is None:
                    sweeper.study_name = study_name(config)
                resume(sweeper)

    def on_multirun_end(self, config: DictConfig, config_name: str | None = None) -> None:  # type: ignore[override]  # Hydra gives it by name
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
