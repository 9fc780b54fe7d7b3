"""Build the training method of a student by its name; baselines are built by the `_target_` of their config."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig
from torch import nn

from experiments.configuration.students import StudentSpec, resolve_config
from experiments.methods.base import Distillation, Hard, Method, RandomViews, Supervised
from experiments.methods.generated_factory import build_generated
from hard_aug import Exploration

if TYPE_CHECKING:
    from experiments.runs.experiment import Experiment


def augmenter_parts(config: DictConfig, channels: int) -> dict[str, Any]:
    """Instantiate the transform, policy, objective, invariance term and schedule of an augmenter's configuration.

    Args:
        config: the node `augmenter`.
        channels: of the images.

    Returns:
        The components by the name of `HardAugmenter`'s argument.
    """
    transform, policy = instantiate(config.transform), instantiate(config.policy)
    if "channels" in inspect.signature(policy).parameters:
        policy = partial(policy, channels=channels)
    rest = {name: instantiate(config[name]) for name in ("objective", "invariance", "schedule")}
    return {"transform": transform, "policy": policy(transform.spec), **rest}


def augmenter_arguments(config: DictConfig, channels: int) -> dict[str, Any]:
    """Return the arguments of `HardAugmenter` for an augmenter's configuration, except networks and seed.

    Args:
        config: the node `augmenter`.
        channels: of the images.
    """
    return {
        **augmenter_parts(config, channels),
        "exploration": Exploration(
            entropy_weight=config.entropy_weight,
            min_variance=config.min_variance,
            min_uniform_fraction=config.min_uniform_fraction,
        ),
        "batch_norm": config.batch_norm,
        "learning_rate": config.learning_rate,
    }


def build(experiment: Experiment, spec: StudentSpec, student: nn.Module) -> Method:
    """Build the training method of a student.

    Args:
        experiment: provides teacher, data and configuration.
        spec: the student's name and settings.
        student: its network.
    """
    return BUILDERS.get(spec.method, _baseline)(experiment, spec, student)


def _temperature(experiment: Experiment, spec: StudentSpec) -> float:
    return spec.setting("temperature", experiment.config.temperature)


def _supervised(experiment: Experiment, spec: StudentSpec, student: nn.Module) -> Method:
    return Supervised(student)


def _kd(experiment: Experiment, spec: StudentSpec, student: nn.Module) -> Method:
    return Distillation(experiment.teacher, student, temperature=_temperature(experiment, spec))


def _random(experiment: Experiment, spec: StudentSpec, student: nn.Module) -> Method:
    transform, scale = instantiate(resolve_config(experiment.config, spec).transform), spec.scale
    return _random_views(experiment, spec, student, transform, scale)


def _oracle(experiment: Experiment, spec: StudentSpec, student: nn.Module) -> Method:
    return _random_views(experiment, spec, student, *experiment.task.oracle(experiment.size))


def _random_views(
    experiment: Experiment, spec: StudentSpec, student: nn.Module, transform: Any, scale: float
) -> Method:
    temperature, seed = _temperature(experiment, spec), experiment.config.seed
    return RandomViews(experiment.teacher, student, transform, temperature=temperature, scale=scale, seed=seed)


def _hard(experiment: Experiment, spec: StudentSpec, student: nn.Module) -> Method:
    return Hard(experiment.augmenter(student, spec), temperature=_temperature(experiment, spec))


def _baseline(experiment: Experiment, spec: StudentSpec, student: nn.Module) -> Method:
    """Instantiate the `_target_`, passing those of the five values below that its constructor names.

    Raises:
        TypeError: the result is not a `Method`.
    """
    node = resolve_config(experiment.config, spec)
    provided: dict[str, Any] = {
        "teacher": experiment.teacher,
        "student": student,
        "temperature": _temperature(experiment, spec),
        "seed": experiment.config.seed,
        "classes": len(experiment.splits.classes),
    }
    accepted = inspect.signature(get_object(node._target_)).parameters
    make = instantiate(node, _partial_=True)  # networks passed to `instantiate` would be copied
    passed = [key for key in provided if key in accepted and (key not in node or key in spec.settings)]
    method = make(**{key: provided[key] for key in passed})
    if not isinstance(method, Method):
        raise TypeError(
            f"baselines.{spec.method}: {node._target_} is not a subclass of experiments.methods.base.Method"
        )
    return method


#: The builders of the built-in methods.
BUILDERS: dict[str, Callable[[Experiment, StudentSpec, nn.Module], Method]] = {
    "supervised": _supervised,
    "kd": _kd,
    "random": _random,
    "oracle": _oracle,
    "hard": _hard,
    "generated": build_generated,
}
