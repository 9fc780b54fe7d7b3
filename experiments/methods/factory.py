"""Build the training method of a student from the config group `method`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig
from torch import nn

from experiments.methods.base import Method
from experiments.tasks import Task
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from hard_aug.data import Splits


@dataclass(frozen=True)
class MethodContext:
    """What a training method may use.

    Attributes:
        config: the composed configuration.
        teacher: the frozen teacher.
        student: the network to be trained, possibly wrapped in DistributedDataParallel.
        splits: the data, on the device.
        task: the task.
        folder: the run's folder.
        progress: a running progress display.
        stop: whether a stop has been requested.
        other_teacher: returns a teacher trained with another seed.
        other_student: returns a student with another seed, as it is before the training.
        trained_student: returns the student of the finished run in a folder.
    """

    config: DictConfig
    teacher: nn.Module
    student: nn.Module
    splits: Splits
    task: Task
    folder: Path
    progress: Progress
    stop: Stop
    other_teacher: Callable[[], nn.Module]
    other_student: Callable[[], nn.Module]
    trained_student: Callable[[Path], nn.Module]

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.config.seed)


def build_method(node: DictConfig, context: MethodContext) -> Method:
    """Instantiate a method's `_target_`, passing what its signature names and the configuration does not set.

    Args:
        node: `_target_` and settings; `name` is not passed on.
        context: provides `teacher`, `student`, `temperature`, `seed`, `classes`, `channels` and itself as `context`.

    Raises:
        TypeError: the result is not a `Method`.
    """
    provided: dict[str, Any] = {
        "teacher": context.teacher,
        "student": context.student,
        "temperature": context.config.temperature,
        "seed": context.seed,
        "classes": len(context.splits.classes),
        "channels": context.splits.train.shape[0],
        "context": context,
    }
    accepted = inspect.signature(get_object(node._target_)).parameters
    make = instantiate(node, _partial_=True)  # networks passed to `instantiate` would be copied
    given = {key: value for key, value in make.keywords.items() if key != "name"}
    method = make.func(**{key: provided[key] for key in provided if key in accepted and key not in given}, **given)
    if not isinstance(method, Method):
        raise TypeError(f"method {node.name}: {node._target_} makes no experiments.methods.Method")
    return method

