"""Checks of a run's configuration, before hours of training."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from hard_aug.utils.checks import check_integer, check_positive_number

#: The validation images that settings are selected on; `sum` is the mean of both accuracies.
SELECTION_SETS = ("clean", "main", "sum")
#: The quantity that is equal for all methods.
BUDGETS = ("steps", "nfe")


def check_config(config: DictConfig) -> None:
    """Raise for invalid settings that would otherwise fail only after hours of training.

    Raises:
        ValueError: the error names the setting and the expected values.
    """
    names = ["steps", "batch_size", "log_every", "checkpoint_every", "threads", "teacher.batch_size"]
    rates = ["learning_rate", "temperature", "teacher.learning_rate"]
    if config.initial is not None:
        names += ["initial.steps", "initial.batch_size"]
        rates.append("initial.learning_rate")
    required = {name: OmegaConf.select(config, name) for name in names}
    if missing := [name for name, value in required.items() if value is None]:
        raise ValueError(f"{missing[0]}=None: expected an integer >= 1")
    check_integer(**required, eval_every=config.eval_every)
    check_integer(0, seed=config.seed, **{"teacher.steps": config.teacher.steps})
    check_positive_number(**{name: OmegaConf.select(config, name) for name in rates})
    for key, value in config.failure_metrics.items():
        if not isinstance(value, bool):
            raise ValueError(f"failure_metrics.{key}={value}: expected true or false")
    if not isinstance(config.logger_settings, (DictConfig, type(None))):
        raise ValueError(f"logger_settings={config.logger_settings}: expected settings by tracker, or null")
    for key, known in (("select_on", SELECTION_SETS), ("budget", BUDGETS)):
        if config[key] not in known:
            raise ValueError(f"{key}={config[key]}: expected one of {', '.join(known)}")
    if unknown := [key for key in config.teacher.get("data") or {} if key not in config.data]:
        raise ValueError(f"teacher.data.{unknown[0]}: these data have no data.{unknown[0]}; expected null")
