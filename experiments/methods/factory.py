"""Build the training method of a student from the config group `method`."""

from __future__ import annotations

import inspect
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig
from torch import nn

from experiments.methods.base import Method
from experiments.training.setup import Setup


def build_method(node: DictConfig, setup: Setup, teacher: nn.Module, student: nn.Module) -> Method:
    """Instantiate a method's `_target_`, passing what its signature names and the configuration does not set.

    These are the arguments below, `temperature` and `seed`.

    Args:
        node: `_target_` and settings; `name` is not passed on.
        setup: configuration, data, task and further networks.
        teacher: the frozen teacher.
        student: the network to be trained, possibly wrapped in DistributedDataParallel.

    Raises:
        TypeError: the result is not a `Method`.
    """
    provided: dict[str, Any] = {"setup": setup, "teacher": teacher, "student": student}
    provided |= {key: setup.config[key] for key in ("temperature", "seed")}
    accepted = inspect.signature(get_object(node._target_)).parameters
    make = instantiate(node, _partial_=True)  # networks passed to `instantiate` would be copied
    given = {key: value for key, value in provided.items() if key in accepted} | make.keywords
    given.pop("name", None)
    method = make.func(**given)
    if not isinstance(method, Method):
        raise TypeError(f"method {node.name}: {node._target_} makes no experiments.methods.Method")
    return method
