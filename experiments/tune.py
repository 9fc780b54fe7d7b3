"""Tune settings with Optuna: `python -m experiments.tune 'tune.space={<key>: {low: 1.0, high: 4.0}}' [overrides]`.

Each trial is a run of `experiments.train` in its own folder. The same command does what is missing: trials of a killed
or stopped process resume from their checkpoints, and failed ones count. Several processes with different `tune.worker`
share a study. The settings with the highest validation accuracy are written as `settings.yaml`, for `settings_from`.
"""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import yaml
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import BaseTrial, FrozenTrial, TrialState
from rich.console import Console
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from experiments.configuration.checks import check_config
from experiments.configuration.command import hydra_command, run_lock
from experiments.configuration.identity import run_hash
from experiments.configuration.settings import compose_with, trial_settings
from hard_aug.utils.checks import check_integer
from hard_aug.utils.files import write_text

logger = logging.getLogger(__name__)
HEARTBEAT = 10  # seconds between two signs of life of a trial; after three without one its process counts as killed


def ranges(node: Mapping[str, Any], parent: str = "") -> dict[str, dict[str, Any]]:
    """Return the range of each dotted key of the nested mapping `tune.space`."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in node.items():
        nested = isinstance(value, Mapping) and value and all(isinstance(one, Mapping) for one in value.values())
        found |= ranges(value, f"{parent}{key}.") if nested else {f"{parent}{key}": value}
    return found


def draw(trial: BaseTrial, space: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return a trial's settings as overrides; raises ValueError for an invalid range."""
    settings = []
    for key, node in space.items():
        try:
            integers = all(isinstance(value, int) for value in node.values())
            suggest: Any = trial.suggest_int if integers else trial.suggest_float
            value = (trial.suggest_categorical if "choices" in node else suggest)(key, **node)
        except (AttributeError, TypeError, ValueError) as error:
            expected = "expected {low, high} with log or step, or {choices: [...]}"
            raise ValueError(f"tune.space.{key}={node}: {expected}; {error}") from error
        settings.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    return settings


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that are complete or have failed, without those that are run again."""
    trials = study.get_trials(deepcopy=False)
    again = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
    return [trial for trial in trials if trial.state.is_finished() and trial.number not in again]


def open_study(config: DictConfig, folder: Path, space: dict[str, dict[str, Any]]) -> optuna.Study:
    """Create the study, or load it; raises ValueError if it has another space, or is damaged."""
    path = folder.resolve() / "study.db"
    try:
        storage = RDBStorage(
            config.tune.storage or URL.create("sqlite", database=str(path)).render_as_string(),
            heartbeat_interval=HEARTBEAT,
            grace_period=3 * HEARTBEAT,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )
    except DatabaseError as error:
        if config.tune.storage or "not a database" not in str(error):
            raise
        raise ValueError(f"{path} is damaged; remove it to start the study again ({error.orig})") from error
    name, wanted = f"{folder.parent.name}-{folder.name}", {"space": space, "select_on": config.select_on}
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    if (known := study.user_attrs.get("tune", wanted)) != wanted:
        raise ValueError(f"tune.study={folder.name} has {known}, got {wanted}; choose another name for the new study")
    study.set_user_attr("tune", wanted)
    return study


def tune(config: DictConfig, folder: Path) -> optuna.Study:
    """Run what is missing of the study in a folder; raises ValueError for an invalid setting."""
    from experiments.runs.student import run

    space = ranges(OmegaConf.to_container(config.tune.space or OmegaConf.create(), resolve=True))  # type: ignore[arg-type]
    if not space:
        raise ValueError("tune.space is empty: expected ranges, such as 'tune.space={temperature: {low: 1, high: 4}}'")
    check_integer(**{"tune.trials": config.tune.trials})
    fixed, _ = trial_settings(config)
    optuna.logging.disable_default_handler()
    check_config(compose_with([*fixed, *draw(optuna.create_study().ask(), space)]))
    optuna.logging.enable_propagation()  # to the log file, and in Hydra's format
    lock, retry = FileLock(folder / "study.lock"), RetryHeartbeatStaleTrialCallback()

    def objective(trial: optuna.Trial) -> float:
        # Seeded for each trial: a resumed study draws other settings than before.
        trial.study.sampler = optuna.samplers.TPESampler(seed=config.seed + trial.number)
        settings = [*fixed, *draw(trial, space)]
        lock.release()
        try:
            chosen = compose_with(settings)
            place = folder / f"trial-{run_hash(chosen)}"
            place.mkdir(exist_ok=True)
            with run_lock(place):  # another process may have drawn the same settings
                record = run(chosen, place, base=config, settings=settings)
        except KeyboardInterrupt:
            retry(trial.study, trial.study.trials[trial.number])
            raise
        trial.set_user_attr("method", record["method"])
        trial.set_user_attr("settings", settings)
        accuracies = record["student"]["validation"]
        return float({**accuracies, "sum": fmean(accuracies.values())}[config.select_on])

    with lock:
        study = open_study(config, folder, space)
    while len(finished(study)) < config.tune.trials:
        with lock:  # until the trial has its settings
            fail_stale_trials(study)
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if len(finished(study)) + len(running) < config.tune.trials:
                study.optimize(objective, n_trials=1, catch=(Exception,))
                continue
        logger.info("waiting for trials of other processes: %s", ", ".join(str(one.number) for one in running))
        time.sleep(HEARTBEAT)
    return study


@hydra_command("tune")
def main(config: DictConfig) -> float:
    """Tune from the command line; return the best validation accuracy."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("each trial is trained by one process; share the study with -m tune.worker=0,1 instead")
    folder = Path(HydraConfig.get().runtime.output_dir).parent
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        study = tune(config, folder)
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise ValueError(f"all trials failed, see the log in {folder}; start anew with another tune.study")
    best, path = study.best_trial, folder / "settings.yaml"
    settings = {"settings": best.user_attrs["settings"], "trials": len(complete)}
    write_text(path, yaml.safe_dump({best.user_attrs["method"]: settings}))
    chosen = " ".join(settings["settings"])
    text = f"best of {len(complete)} trials: {best.value:.4f} with {chosen}\nsettings_from={path}"
    Console().print(text, soft_wrap=True, markup=False, highlight=False)
    return float(study.best_value)


if __name__ == "__main__":
    main()
