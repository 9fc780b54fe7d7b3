"""Studies of Optuna that go on where they were killed: every trial is in the storage once.

A trial that was running is asked for again, with the parameters that it had; its run goes on from its checkpoint, since
its folder is named after them. So one command at a time may work on a study.
"""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from experiments.experiment import identity
from experiments.teachers import cache_key

logger = logging.getLogger(__name__)
SQLITE = "sqlite:///"


def refuse(config: DictConfig) -> str | None:
    """Why a study of this configuration makes no sense; None if it does."""
    if "GridSampler" in str(config.hydra.sweeper.sampler.get("_target_")):
        return (
            "hydra/sweeper/sampler=grid: Optuna's grid loses its place when it is killed; leave sweep=optuna out and "
            "give the grid itself, -m key=1,2,3"
        )
    if not _swept(config):
        return "sweep=optuna has nothing to tune: give ranges, such as 'temperature=interval(1,4)'"
    return None


def _swept(config: DictConfig) -> dict[str, str]:
    overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    swept = {str(key): str(value) for key, value in (config.hydra.sweeper.params or {}).items()}
    return swept | {one.key_or_group: str(one.input_line) for one in overrides if one.is_sweep_override()}


def study_name(config: DictConfig) -> str:
    """A name that differs where trials cannot be compared: other fixed settings, other ranges, another metric.

    Args:
        config: of the multirun, with the node `hydra`; what is swept has its default values there.
    """
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    all_of_it = {
        "config": identity(own),
        "swept": _swept(config),
        "returns": OmegaConf.to_container(config.returns),
        "direction": str(config.hydra.sweeper.direction),
    }
    return f"{config.hydra.job.config_name}-{cache_key(all_of_it)[:10]}"


def resume(sweeper: DictConfig) -> None:
    """Put back the trials that were killed, and leave of `n_trials` those that are missing, in place.

    Args:
        sweeper: Hydra's node, with `storage`, `study_name`, `n_trials` and a `sampler`. Its seed, 0 if none is given,
            moves on by the trials that there are: it would draw the first ones' parameters again.
    """
    _create(sweeper.storage)
    storage = RDBStorage(sweeper.storage)
    try:
        study = storage.get_study_id_from_name(sweeper.study_name)
        trials = storage.get_all_trials(study, deepcopy=False)
    except KeyError:  # a new one
        trials = []
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            identifier = storage.get_trial_id_from_study_id_trial_number(study, trial.number)
            storage.set_trial_state(identifier, TrialState.WAITING)
    done = sum(trial.state == TrialState.COMPLETE for trial in trials)
    if "seed" in sweeper.sampler:
        sweeper.sampler.seed = (sweeper.sampler.seed or 0) + len(trials)
    logger.info("study %s: %d of %d trials are done", sweeper.study_name, done, sweeper.n_trials)
    sweeper.n_trials = max(0, sweeper.n_trials - done)


def _create(storage: str) -> None:
    """Make an SQLite file beside and move it over: Optuna cannot read one whose making was killed."""
    path = Path(storage.removeprefix(SQLITE))
    if not storage.startswith(SQLITE) or path.exists():
        return
    unfinished = path.with_suffix(".tmp")
    for left in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):
        left.unlink(missing_ok=True)
    RDBStorage(f"{SQLITE}{unfinished}").engine.dispose()
    unfinished.replace(path)
