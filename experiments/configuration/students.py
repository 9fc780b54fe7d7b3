"""The students of a run: the training method of each, the settings of its trials, and which trial is selected.

`students` lists training methods: the built-in ones (`experiments.methods.base`) and those of the config group `baseline`.
`trials: {<student>: [{setting: value, ...}, ...]}` trains one student several times, as `<student>/0`, `<student>/1`
and so on; in the results the row `<student>` is the trial with the highest validation accuracy, and all trials are
listed with their settings.

| student | settings of a trial, besides `student_learning_rate` and, for all but `supervised`, `temperature` |
|---|---|
| `hard` | all of `augmenter` |
| `random` | `scale`, and `transform` as for `hard` |
| `generated` | all of `hard_images` |
| a baseline | those of its constructor |

A setting may be nested or dotted (`{policy: {std: 0.5}}`, `policy.std: 0.5`). For `transform`, `policy`, `objective`,
`invariance` and `schedule` a string selects an option of that config group: `{transform: affine, policy: generator}`.
`trials_from=<run>` uses the settings that another run has selected, see `experiments.configuration.trial_selection`.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from experiments.configuration.trial_selection import best_trials
from experiments.methods.base import NAMES
from hard_aug.utils.checks import check_fraction, check_positive_number

logger = logging.getLogger(__name__)

#: The key of the accuracy by which trials and ranges are selected; `select_on` says on which images.
VALIDATION = "validation"
CONF = Path(__file__).parent.parent / "conf"
#: Settings for which a string selects an option of the config group of the same name.
GROUPS = ("transform", "policy", "objective", "invariance", "schedule")
#: Arguments of a method's constructor that `experiments.methods.factory` provides.
PROVIDED = ("teacher", "student", "seed", "classes", "temperature")


@dataclass(frozen=True)
class StudentSpec:
    """One student to be trained.

    Attributes:
        name: of the student, in the checkpoint and the curves.
        method: the training method.
        scale: fraction of the transform's ranges, for random augmentation.
        row: of the results.
        settings: of this trial; empty: as configured.
        prior_trials: number of trials in other runs from which the settings were selected, `trials_from`.
        seed: added to the run's, for the student's initialisation and the order of its batches.
    """

    name: str
    method: str
    scale: float = 1.0
    row: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    prior_trials: int = 1
    seed: int = 0

    def setting(self, name: str, default: float) -> float:
        """Return a number from the trial's settings.

        Args:
            name: of the setting.
            default: the configured value, used if the trial does not set it.
        """
        return float(self.settings.get(name, default))


def student_specs(config: DictConfig) -> list[StudentSpec]:
    """Return the students of a run, in order.

    Raises:
        ValueError: a student, or a student or setting in `trials`, is unknown or duplicated; the error lists the known
            ones.
    """
    known = (*NAMES, *config.get("baselines", {}))
    unknown = [name for name in config.students if name not in known]
    if unknown or not config.students:
        raise ValueError(f"students={list(config.students)}: expected some of {', '.join(known)}")
    if len(set(config.students)) < len(config.students):
        raise ValueError(f"students={list(config.students)}: expected each once; use trials for several settings")
    trials, prior = _trials(config, known), {name: count for name, (_, count) in _selected_elsewhere(config).items()}
    specs: list[StudentSpec] = []
    for row in config.students:
        scale = config.random_scale if row == "random" else 1.0
        for number, settings in enumerate(trials.get(row) or [{}]):
            name = f"{row}/{number}" if row in trials else row
            specs.append(StudentSpec(name, row, float(settings.get("scale", scale)), row, settings, prior.get(row, 1)))
    if config.tune_random and "random" in trials:
        raise ValueError("tune_random and trials.random both tune random; use one of them: tune_random=[]")
    scales = {spec.scale for spec in specs if spec.method == "random"}
    tuned = [(f"random_x{scale:g}", scale) for scale in config.tune_random if scale not in scales]
    specs += [StudentSpec(name, "random", scale, name) for name, scale in tuned]
    counts = {name: max(len(trials.get(name, [{}])), prior.get(name, 1)) for name in config.students}
    if trials and len(set(counts.values())) > 1:
        logger.warning("rows with unequal numbers of trials: %s", ", ".join(f"{k} {v}" for k, v in counts.items()))
    return specs


def _selected_elsewhere(config: DictConfig) -> dict[str, tuple[dict[str, Any], int]]:
    """Return by student the settings that the runs of `trials_from` have selected, and the number of their trials."""
    runs = config.get("trials_from")
    if not runs:
        return {}
    folders = [runs] if isinstance(runs, str) else list(runs)
    return best_trials(folders, list(config.students), VALIDATION, select_on=config.get("select_on", "main"))


def _given_trials(config: DictConfig) -> dict[str, Any]:
    """Return the trials by student, as configured or as selected by the runs of `trials_from`."""
    own: Any = {} if config.get("trials") is None else OmegaConf.to_container(config.trials, resolve=True)
    return {**own, **{name: [settings] for name, (settings, _) in _selected_elsewhere(config).items()}}


def _trials(config: DictConfig, known: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the validated trials of the students of the run."""
    given = _given_trials(config)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"trials: {', '.join(unknown)} unknown; expected some of {', '.join(known)}")
    found = {name: settings for name, settings in given.items() if name in config.students and settings}
    for name, settings in found.items():
        if not (isinstance(settings, list) and all(isinstance(one, dict) for one in settings)):
            raise ValueError(f"trials.{name}={settings}: expected a list of settings, such as [{{temperature: 4.0}}]")
        for one in settings:
            _check_trial(config, name, one)
    return found


def _check_trial(config: DictConfig, name: str, settings: Mapping[str, Any]) -> None:
    """Raise for settings that a training method does not have, and for invalid numbers."""
    common = ["student_learning_rate"] if name == "supervised" else ["student_learning_rate", "temperature"]
    if name == "random":
        common.append("scale")
    for key in common:
        check = check_fraction if key == "scale" else check_positive_number
        check(**{f"trials.{name}: {key}": settings.get(key, 1.0)})
    own = {key: value for key, value in settings.items() if key not in common}
    path = _config_path(name)
    if own and path is None:
        raise ValueError(f"trials.{name}: {', '.join(own)} unknown; expected some of {', '.join(common)}")
    if name == "random" and any(key.split(".")[0] != "transform" for key in own):
        raise ValueError(f"trials.random: {', '.join(own)}; expected some of {', '.join([*common, 'transform'])}")
    if own and path is not None:
        _with_settings(config, path, own, f"trials.{name}", common)


def _config_path(name: str) -> str | None:
    """Return where in the configuration the settings of a training method are."""
    own = {"hard": "augmenter", "random": "augmenter", "generated": "hard_images"}
    return own.get(name) if name in NAMES else f"baselines.{name}"


def resolve_config(config: DictConfig, spec: StudentSpec) -> DictConfig:
    """Return the config node that a student's method is built from, with the trial's settings merged into it.

    Args:
        config: the composed configuration.
        spec: the student.

    Raises:
        ValueError: the method has no settings, or not this one.
    """
    path = _config_path(spec.method)
    if path is None:
        raise ValueError(f"{spec.method} has no settings of its own")
    common = ("student_learning_rate", "temperature", *(("scale",) if spec.method == "random" else ()))
    own = {key: value for key, value in spec.settings.items() if key not in common}
    node = _with_settings(config, path, own, f"trials.{spec.method}", ())
    objective = node.get("objective") if spec.method == "hard" else None
    if "temperature" in spec.settings and objective is not None and "temperature" in objective:
        objective.temperature = spec.settings["temperature"]  # the objective is the student's own loss
    return node


def _with_settings(
    config: DictConfig, path: str, settings: Mapping[str, Any], where: str, others: Sequence[str]
) -> DictConfig:
    """Return a copy of a node with settings merged into it; it keeps its parent, so that interpolations resolve."""
    changed = copy.deepcopy(config)
    OmegaConf.set_struct(changed, False)
    node: DictConfig = OmegaConf.select(changed, path)
    # First whole components, then settings inside them.
    for key in sorted(settings, key=lambda key: not _replaces_component(key, settings[key])):
        value = settings[key]
        whole = _replaces_component(key, value)
        if not whole:
            _check_key(node, key.split("."), value, where, others)
        OmegaConf.update(node, key, _load_option(key, value, where), merge=not whole, force_add=True)
    return node


def _replaces_component(key: str, value: Any) -> bool:
    return key in GROUPS and (isinstance(value, str) or (isinstance(value, dict) and "_target_" in value))


def _load_option(key: str, value: Any, where: str) -> Any:
    """Return the config of the option that a string selects, and any other value unchanged."""
    if key not in GROUPS or not isinstance(value, str):
        return value
    path = CONF / key / f"{value}.yaml"
    if not path.is_file():
        options = ", ".join(sorted(option.stem for option in (CONF / key).glob("*.yaml")))
        raise ValueError(f"{where}: {key}={value}: expected one of {options}")
    return _with_library_defaults(OmegaConf.to_container(OmegaConf.load(path), resolve=False))


def _with_library_defaults(value: Any) -> Any:
    """Resolve the interpolations `${default_of:...}`, which need no parent; all others stay as they are."""
    if isinstance(value, dict):
        return {key: _with_library_defaults(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_library_defaults(inner) for inner in value]
    if isinstance(value, str) and value.startswith("${default_of:"):
        return OmegaConf.create({"value": value}).value
    return value


def _check_key(node: Any, parts: list[str], value: Any, where: str, others: Sequence[str]) -> None:
    """Raise for a setting that neither the configuration nor the constructor of its target has."""
    head, *rest = parts
    if OmegaConf.is_list(node):
        if not (head.isdigit() and int(head) < len(node)):
            raise ValueError(f"{where}: {head} unknown; expected an index below {len(node)}")
    elif OmegaConf.is_dict(node):
        known = [str(key) for key in node]
        if "_target_" in node:
            target: Callable[..., Any] = get_object(node._target_)
            known += [key for key in inspect.signature(target).parameters if key not in (*known, *PROVIDED, "spec")]
        if head not in known:
            shown = dict.fromkeys([*others, *(key for key in known if not key.startswith("_"))])
            raise ValueError(f"{where}: {head} unknown; expected some of {', '.join(shown)}")
    else:
        raise ValueError(f"{where}: {head} is not a setting of {node}")
    below = node[int(head)] if OmegaConf.is_list(node) else node.get(head)
    if rest:
        _check_key(below, rest, value, where, ())
    elif isinstance(value, dict) and OmegaConf.is_dict(below):
        for key, inner in value.items():
            _check_key(below, str(key).split("."), inner, where, ())


def students_identity(config: DictConfig, resolved: dict[str, Any]) -> dict[str, Any]:
    """Return `resolved` restricted to the baselines and trials of the run's students, with option names expanded.

    The keys are absent if there are none.

    Args:
        config: the composed configuration.
        resolved: the identity of the whole configuration.
    """
    found = {key: value for key, value in resolved.items() if key not in ("baselines", "trials", "trials_from")}
    baselines = {k: v for k, v in (resolved.get("baselines") or {}).items() if k in config.students}
    trials = {
        name: [{key: _load_option(key, value, f"trials.{name}") for key, value in one.items()} for one in settings]
        for name, settings in _given_trials(config).items()
        if name in config.students and settings
    }
    return found | ({"baselines": baselines} if baselines else {}) | ({"trials": trials} if trials else {})


def select_best(specs: Sequence[StudentSpec], metrics: Mapping[str, Mapping[str, Any]]) -> StudentSpec:
    """Return the student with the highest validation accuracy, the first in case of ties.

    Args:
        specs: the trials of a row.
        metrics: by name of the student.
    """
    return max(specs, key=lambda spec: metrics[spec.name][VALIDATION])


def results_by_row(specs: Sequence[StudentSpec], metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return by row the metrics of its best student, with the number of trials and the selected settings.

    Args:
        specs: the students of the run.
        metrics: by name of the student.
    """
    rows: dict[str, list[StudentSpec]] = {}
    for spec in specs:
        rows.setdefault(spec.row, []).append(spec)
    results: dict[str, dict[str, Any]] = {}
    for row, members in rows.items():
        best = select_best(members, metrics)
        trial = {"trial": dict(best.settings)} if best.settings else {}
        results[row] = {**metrics[best.name], "trials": max(len(members), best.prior_trials), **trial}
    return results


def trials_by_row(
    specs: Sequence[StudentSpec], metrics: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Return by row every trial with its `settings` and metrics; rows without trials are omitted.

    Args:
        specs: the students of the run.
        metrics: by name of the student.
    """
    trials: dict[str, list[dict[str, Any]]] = {}
    for spec in specs:
        if spec.name != spec.row:
            trials.setdefault(spec.row, []).append({"settings": dict(spec.settings), **metrics[spec.name]})
    return trials
