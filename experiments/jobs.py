"""The students of a run: which way each is taught, with which trial of its settings, and which trial is a row's best.

`students` names ways of teaching: the built-in ones (`experiments.methods`) and those of the config group `baseline`.
`trials: {<student>: [{setting: value, ...}, ...]}` makes of one student several jobs, `<student>/0`, `<student>/1` and
so on; in the results the row `<student>` is the one that is best on validation data, and all are listed with their
settings.

| student | settings of a trial, beside `student_learning_rate` and, for all but `labels`, `temperature` |
|---|---|
| `hard` | all of `augmenter` |
| `random` | `scale`, and `transform` as `hard` has it |
| `mixed` | all of `hard_images` |
| a baseline | those of its constructor |

A setting may be nested or dotted (`{policy: {std: 0.5}}`, `policy.std: 0.5`). For `transform`, `policy`, `objective`,
`invariance` and `schedule` a name stands for the option of that config group: `{transform: affine, policy: generator}`.
`trials_from=<run>` takes what another run has chosen, see `experiments.chosen`.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from experiments.chosen import chosen
from experiments.methods import NAMES

logger = logging.getLogger(__name__)

#: The accuracy that trials and ranges are chosen by; what it is says `choose_on`.
VALIDATION = "validation"
CONF = Path(__file__).parent / "conf"
#: Settings of which a name stands for an option of the config group that is called the same.
GROUPS = ("transform", "policy", "objective", "invariance", "schedule")
#: What a method's constructor is given by whoever builds it.
GIVEN = ("teacher", "student", "seed", "classes", "temperature")


@dataclass(frozen=True)
class Job:
    """One student to be trained.

    Attributes:
        name: of the job, in the checkpoint and the curves.
        method: the way of teaching.
        scale: share of the ranges, where that is random.
        row: of the results.
        settings: of this trial; empty: as configured.
        tried: trials that the settings were chosen from in other runs, `trials_from`.
        seed: added to the run's, for the student's start and its batches.
    """

    name: str
    method: str
    scale: float = 1.0
    row: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    tried: int = 1
    seed: int = 0

    def value(self, name: str, default: float) -> float:
        """A number that a trial may set and the configuration has."""
        return float(self.settings.get(name, default))


def jobs(config: DictConfig) -> list[Job]:
    """The students of a run, in order.

    Raises:
        ValueError: a student, a trial's student or a trial's setting that is not known, or is there twice; names those
            that are known.
    """
    known = (*NAMES, *config.get("baselines", {}))
    unknown = [name for name in config.students if name not in known]
    if unknown or not config.students:
        raise ValueError(f"students={list(config.students)}: wanted some of {', '.join(known)}")
    if len(set(config.students)) < len(config.students):
        raise ValueError(f"students={list(config.students)}: wanted each once; try settings with trials")
    trials, tried = _trials(config, known), {name: count for name, (_, count) in _elsewhere(config).items()}
    found: list[Job] = []
    for name in config.students:
        scale = config.random_scale if name == "random" else 1.0
        for number, settings in enumerate(trials.get(name) or [{}]):
            job = f"{name}/{number}" if name in trials else name
            found.append(Job(job, name, float(settings.get("scale", scale)), name, settings, tried.get(name, 1)))
    if config.tune_random and "random" in trials:
        raise ValueError("tune_random and trials.random both tune random; give one: tune_random=[]")
    taken = {job.scale for job in found if job.method == "random"}
    for scale in config.tune_random:
        if scale not in taken:
            found.append(Job(f"random_x{scale:g}", "random", scale, f"random_x{scale:g}"))
    numbers = {name: max(len(trials.get(name, [{}])), tried.get(name, 1)) for name in config.students}
    if trials and len(set(numbers.values())) > 1:
        logger.warning("rows with unequal numbers of trials: %s", ", ".join(f"{k} {v}" for k, v in numbers.items()))
    return found


def _elsewhere(config: DictConfig) -> dict[str, tuple[dict[str, Any], int]]:
    """By student of the run the settings that the runs of `trials_from` have chosen, and from how many."""
    runs = config.get("trials_from")
    if not runs:
        return {}
    folders = [runs] if isinstance(runs, str) else list(runs)
    return chosen(folders, list(config.students), VALIDATION, choose_on=config.get("choose_on", "main"))


def _given(config: DictConfig) -> dict[str, Any]:
    """The trials by student, as configured or as chosen by the runs of `trials_from`."""
    own: Any = {} if config.get("trials") is None else OmegaConf.to_container(config.trials, resolve=True)
    return {**own, **{name: [settings] for name, (settings, _) in _elsewhere(config).items()}}


def _trials(config: DictConfig, known: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The trials of the students of the run, checked."""
    given = _given(config)
    strangers = [name for name in given if name not in known]
    if strangers:
        raise ValueError(f"trials: {', '.join(strangers)} unknown; wanted some of {', '.join(known)}")
    found = {name: settings for name, settings in given.items() if name in config.students and settings}
    for name, settings in found.items():
        if not (isinstance(settings, list) and all(isinstance(one, dict) for one in settings)):
            raise ValueError(f"trials.{name}={settings}: wanted a list of settings, such as [{{temperature: 4.0}}]")
        for one in settings:
            _check(config, name, one)
    return found


def _check(config: DictConfig, name: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings that a way of teaching does not have, and numbers that can't be."""
    common = ["student_learning_rate"] if name == "labels" else ["student_learning_rate", "temperature"]
    if name == "random":
        common.append("scale")
    for key in common:
        value = settings.get(key, 1.0)
        number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and math.isfinite(value)
        if not number or (key == "scale" and value > 1):
            wanted = "a share of the ranges in (0, 1]" if key == "scale" else "a positive number"
            raise ValueError(f"trials.{name}: {key}={value}: wanted {wanted}")
    own = {key: value for key, value in settings.items() if key not in common}
    path = _node(name)
    if own and path is None:
        raise ValueError(f"trials.{name}: {', '.join(own)} unknown; wanted some of {', '.join(common)}")
    if name == "random" and any(key.split(".")[0] != "transform" for key in own):
        raise ValueError(f"trials.random: {', '.join(own)}; wanted some of {', '.join([*common, 'transform'])}")
    if own and path is not None:
        _overridden(config, path, own, f"trials.{name}", common)


def _node(name: str) -> str | None:
    """Where in the configuration the settings of a way of teaching are."""
    own = {"hard": "augmenter", "random": "augmenter", "mixed": "hard_images"}
    return own.get(name) if name in NAMES else f"baselines.{name}"


def settled(config: DictConfig, job: Job) -> DictConfig:
    """The node of the configuration that a job's method is built from, with the trial's settings in it."""
    path = _node(job.method)
    if path is None:
        raise ValueError(f"{job.method} has no settings of its own")
    common = ("student_learning_rate", "temperature", *(("scale",) if job.method == "random" else ()))
    own = {key: value for key, value in job.settings.items() if key not in common}
    node = _overridden(config, path, own, f"trials.{job.method}", ())
    objective = node.get("objective") if job.method == "hard" else None
    if "temperature" in job.settings and objective is not None and "temperature" in objective:
        objective.temperature = job.settings["temperature"]  # one loss for both, as a shared backward wants it
    return node


def _overridden(
    config: DictConfig, path: str, settings: Mapping[str, Any], where: str, others: Sequence[str]
) -> DictConfig:
    """A copy of a node with settings put into it; it still knows its place, so that references resolve."""
    changed = copy.deepcopy(config)
    OmegaConf.set_struct(changed, False)
    node: DictConfig = OmegaConf.select(changed, path)
    # Whole parts first, then what is set inside them.
    for key in sorted(settings, key=lambda key: not _replaces(key, settings[key])):
        value = settings[key]
        whole = _replaces(key, value)
        if not whole:
            _check_key(node, key.split("."), value, where, others)
        OmegaConf.update(node, key, _option(key, value, where), merge=not whole, force_add=True)
    return node


def _replaces(key: str, value: Any) -> bool:
    return key in GROUPS and (isinstance(value, str) or (isinstance(value, dict) and "_target_" in value))


def _option(key: str, value: Any, where: str) -> Any:
    """What a setting's value stands for."""
    if key not in GROUPS or not isinstance(value, str):
        return value
    path = CONF / key / f"{value}.yaml"
    if not path.is_file():
        options = ", ".join(sorted(option.stem for option in (CONF / key).glob("*.yaml")))
        raise ValueError(f"{where}: {key}={value}: wanted one of {options}")
    return OmegaConf.to_container(OmegaConf.load(path), resolve=False)


def _check_key(node: Any, parts: list[str], value: Any, where: str, others: Sequence[str]) -> None:
    """Refuse a setting that neither the configuration nor the constructor of what it is of names."""
    head, *rest = parts
    if OmegaConf.is_list(node):
        if not (head.isdigit() and int(head) < len(node)):
            raise ValueError(f"{where}: {head} unknown; wanted a number below {len(node)}")
    elif OmegaConf.is_dict(node):
        known = [str(key) for key in node]
        if "_target_" in node:
            taken: Callable[..., Any] = get_object(node._target_)
            known += [key for key in inspect.signature(taken).parameters if key not in (*known, *GIVEN, "spec")]
        if head not in known:
            shown = dict.fromkeys([*others, *(key for key in known if not key.startswith("_"))])
            raise ValueError(f"{where}: {head} unknown; wanted some of {', '.join(shown)}")
    else:
        raise ValueError(f"{where}: {head} is no setting of {node}")
    below = node[int(head)] if OmegaConf.is_list(node) else node.get(head)
    if rest:
        _check_key(below, rest, value, where, ())
    elif isinstance(value, dict) and OmegaConf.is_dict(below):
        for key, inner in value.items():
            _check_key(below, str(key).split("."), inner, where, ())


def identity(config: DictConfig, resolved: dict[str, Any]) -> dict[str, Any]:
    """`resolved` with of `baselines` and `trials` only those of the run's students, an option's name being spelt out.

    Where there are none the key is not there at all, as in runs from before there were any.
    """
    found = {key: value for key, value in resolved.items() if key not in ("baselines", "trials", "trials_from")}
    baselines = {k: v for k, v in (resolved.get("baselines") or {}).items() if k in config.students}
    trials = {
        name: [{key: _option(key, value, f"trials.{name}") for key, value in one.items()} for one in settings]
        for name, settings in _given(config).items()
        if name in config.students and settings
    }
    return found | ({"baselines": baselines} if baselines else {}) | ({"trials": trials} if trials else {})


def best(members: Sequence[Job], metrics: Mapping[str, Mapping[str, Any]]) -> Job:
    """The job that is best on validation data; the first of equals."""
    return max(members, key=lambda job: metrics[job.name][VALIDATION])


def rows(found: Sequence[Job], metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By row of the results the metrics of its best job, with the number of its trials and the settings of the best."""
    members: dict[str, list[Job]] = {}
    for job in found:
        members.setdefault(job.row, []).append(job)
    results: dict[str, dict[str, Any]] = {}
    for row, those in members.items():
        first = best(those, metrics)
        results[row] = {**metrics[first.name], "trials": max(len(those), first.tried)}
        if first.settings:
            results[row]["trial"] = dict(first.settings)
    return results


def listed(found: Sequence[Job], metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """By row every trial: `settings` and metrics. Rows without trials are not in it."""
    trials: dict[str, list[dict[str, Any]]] = {}
    for job in found:
        if job.name != job.row:
            trials.setdefault(job.row, []).append({"settings": dict(job.settings), **metrics[job.name]})
    return trials
