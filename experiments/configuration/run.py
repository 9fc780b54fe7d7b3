"""The configuration of a run: validation of its settings, and the identity that its outcome depends on."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from experiments.configuration import students as jobs
from experiments.training import checkpoint, teachers
from experiments.training.loop import TrainerSettings
from hard_aug.utils.checks import check_fraction, check_integer

#: The validation images that trials are selected on; `sum` is the mean of both accuracies.
SELECTION_SETS = ("clean", "main", "sum")
#: The quantity that is equal for all students of a run.
BUDGETS = ("steps", "nfe")
#: Keys excluded from a run's identity: they change how a run is executed but not its outcome, and may differ on resume.
EXCLUDED_KEYS = (
    "threads",
    "device",
    "resume",
    "log_every",
    "checkpoint_every",
    "teacher_cache",
    "logger",
    "sweep_metric",
    "data.in_memory",
)
#: Keys of image generation, on which only the student `generated` depends.
GENERATION_KEYS = ("generation", "search", "student_from", "student_name", "hard_images")


def check_numbers(config: DictConfig) -> None:
    """Raise for invalid settings that would otherwise fail only after hours of training.

    Raises:
        ValueError: the error names the setting and the expected values.
    """
    required = {name: config[name] for name in ("steps", "batch_size", "log_every", "checkpoint_every", "threads")}
    if missing := [name for name, value in required.items() if value is None]:
        raise ValueError(f"{missing[0]}=None: expected an integer >= 1")
    check_integer(**required, eval_every=config.get("eval_every"))
    check_integer(0, seed=config.seed)
    if config.get("select_on", "main") not in SELECTION_SETS:
        raise ValueError(f"select_on={config.select_on}: expected one of {', '.join(SELECTION_SETS)}")
    if config.get("budget", "steps") not in BUDGETS:
        raise ValueError(f"budget={config.budget}: expected one of {', '.join(BUDGETS)}")
    if has_nfe_budget(config) and "generated" in config.students:
        raise ValueError(
            "budget=nfe: the cost of image generation is not counted; the student generated requires budget=steps"
        )
    teachers.check_fraction(config)
    tuned = {f"tune_random.{number}": scale for number, scale in enumerate(config.tune_random)}
    check_fraction(random_scale=config.random_scale, **tuned)


def run_identity(config: DictConfig) -> dict[str, Any]:
    """Return all settings that the outcome of a run depends on; `trainer` only if it differs from the default."""
    excluded = EXCLUDED_KEYS if "generated" in config.students else (*EXCLUDED_KEYS, *GENERATION_KEYS)
    if trainer_settings(config) == TrainerSettings():
        excluded = (*excluded, "trainer")
    return jobs.students_identity(config, checkpoint.config_identity(config, excluded))


def has_nfe_budget(config: DictConfig) -> bool:
    """Return whether all students get the same number of network evaluations instead of the same number of steps."""
    return bool(config.get("budget", "steps") == "nfe")


def trainer_settings(config: DictConfig) -> TrainerSettings:
    """Return the settings of the config group `trainer`."""
    return TrainerSettings(**config.get("trainer", {}))
