"""Resumable Optuna studies: every trial is in the storage once.

A trial that was running when the study was killed is enqueued again with its parameters; its run resumes from its
checkpoint, since the run's folder is named after them. Therefore only one command at a time may work on a study.
"""

from __future__ import annotations

import logging
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from experiments.configuration.run import run_identity
from hard_aug.utils.hashing import cache_key

logger = logging.getLogger(__name__)
SQLITE = "sqlite:///"


def unsupported_reason(config: DictConfig) -> str | None:
    """Return why a study of this configuration is not supported, or None."""
    if "GridSampler" in str(config.hydra.sweeper.sampler.get("_target_")):
        return (
            "hydra/sweeper/sampler=grid: Optuna's grid sampler cannot resume after a kill; leave sweep=optuna out and "
            "use Hydra's own grid, -m key=1,2,3"
        )
    advice = "sweep=optuna has nothing to tune: give ranges, such as 'temperature=interval(1,4)'"
    return None if _swept(config) else advice


def _swept(config: DictConfig) -> dict[str, str]:
    overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
    swept = {str(key): str(value) for key, value in (config.hydra.sweeper.params or {}).items()}
    return swept | {one.key_or_group: str(one.input_line) for one in overrides if one.is_sweep_override()}


def study_name(config: DictConfig) -> str:
    """Return a name that differs between studies with other fixed settings, other ranges or another metric.

    Args:
        config: of the multirun, with the node `hydra`; swept keys have their default values.
    """
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    settings = {
        "config": run_identity(own),
        "swept": _swept(config),
        "sweep_metric": OmegaConf.to_container(config.sweep_metric),
        "direction": str(config.hydra.sweeper.direction),
    }
    return f"{config.hydra.job.config_name}-{cache_key(settings)[:10]}"


def resume(sweeper: DictConfig) -> None:
    """Enqueue killed trials again, and reduce `n_trials` in place to the number of missing trials.

    Args:
        sweeper: Hydra's node, with `storage`, `study_name`, `n_trials` and a `sampler`. The sampler's seed (default 0)
            is increased by the number of existing trials, since it would draw the parameters of the first ones again.
    """
    _create(sweeper.storage)
    storage = RDBStorage(sweeper.storage)
    try:
        study = storage.get_study_id_from_name(sweeper.study_name)
        trials = storage.get_all_trials(study, deepcopy=False)
    except KeyError:  # a new study
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
    """Create an SQLite file atomically: Optuna cannot read one whose creation was interrupted by a kill."""
    path = Path(storage.removeprefix(SQLITE))
    if not storage.startswith(SQLITE) or path.exists():
        return
    unfinished = path.with_suffix(".tmp")
    for left in (unfinished, unfinished.with_name(f"{unfinished.name}-journal")):
        left.unlink(missing_ok=True)
    RDBStorage(f"{SQLITE}{unfinished}").engine.dispose()
    unfinished.replace(path)
