"""How each way of teaching is made, by its name; all others are baselines, made by the `_target_` of their config."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig
from torch import nn

from experiments.builders_mixed import mixed
from experiments.jobs import Job, settled
from experiments.methods import Distillation, Hard, Labels, Method, RandomViews

if TYPE_CHECKING:
    from experiments.experiment import Experiment


def augmenter_parts(parts: DictConfig, channels: int) -> dict[str, Any]:
    """The five kinds of parts of the augmenter's configuration, by name, for images of so many channels."""
    transform, policy = instantiate(parts.transform), instantiate(parts.policy)
    if "channels" in inspect.signature(policy).parameters:
        policy = partial(policy, channels=channels)
    rest = {name: instantiate(parts[name]) for name in ("objective", "invariance", "schedule")}
    return {"transform": transform, "policy": policy(transform.spec), **rest}


def build(experiment: Experiment, job: Job, student: nn.Module) -> Method:
    """The way of teaching of a job, around `student`."""
    return BUILDERS.get(job.method, _baseline)(experiment, job, student)


def _temperature(experiment: Experiment, job: Job) -> float:
    return job.value("temperature", experiment.config.temperature)


def _labels(experiment: Experiment, job: Job, student: nn.Module) -> Method:
    return Labels(student)


def _kd(experiment: Experiment, job: Job, student: nn.Module) -> Method:
    return Distillation(experiment.teacher, student, temperature=_temperature(experiment, job))


def _random(experiment: Experiment, job: Job, student: nn.Module) -> Method:
    transform, scale = instantiate(settled(experiment.config, job).transform), job.scale
    return _views(experiment, job, student, transform, scale)


def _oracle(experiment: Experiment, job: Job, student: nn.Module) -> Method:
    return _views(experiment, job, student, *experiment.task.oracle(experiment.size))


def _views(experiment: Experiment, job: Job, student: nn.Module, transform: Any, scale: float) -> Method:
    temperature, seed = _temperature(experiment, job), experiment.config.seed
    return RandomViews(experiment.teacher, student, transform, temperature=temperature, scale=scale, seed=seed)


def _hard(experiment: Experiment, job: Job, student: nn.Module) -> Method:
    return Hard(experiment.augmenter(student, job), temperature=_temperature(experiment, job))


def _baseline(experiment: Experiment, job: Job, student: nn.Module) -> Method:
    """By its `_target_`, given those of the five values here that its constructor names.

    Raises:
        TypeError: what is made is no `Method`.
    """
    node = settled(experiment.config, job)
    given: dict[str, Any] = {
        "teacher": experiment.teacher,
        "student": student,
        "temperature": _temperature(experiment, job),
        "seed": experiment.config.seed,
        "classes": len(experiment.splits.classes),
    }
    wanted = inspect.signature(get_object(node._target_)).parameters
    make = instantiate(node, _partial_=True)  # networks given to `instantiate` would be copied
    passed = [key for key in given if key in wanted and (key not in node or key in job.settings)]
    method = make(**{key: given[key] for key in passed})
    if not isinstance(method, Method):
        raise TypeError(f"baselines.{job.method}: {node._target_} is no experiments.methods.Method")
    return method


#: How the built-in ones are made.
BUILDERS: dict[str, Callable[[Experiment, Job, nn.Module], Method]] = {
    "labels": _labels,
    "kd": _kd,
    "random": _random,
    "oracle": _oracle,
    "hard": _hard,
    "mixed": mixed,
}
