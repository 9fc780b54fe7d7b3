"""Training methods built as a run builds them, for small images."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from torch import nn

import experiments  # noqa: F401 - registers the resolvers
from experiments.methods.factory import build_method
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from experiments.training.setup import Setup
from hard_aug.data import ImageSet, Splits


@lru_cache
def composed(*overrides: str, name: str = "train") -> DictConfig:
    """Compose a configuration of `experiments.train` for the CPU."""
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(name, ["device=cpu", *overrides])


def small_method(
    config: DictConfig, teacher: nn.Module, student: nn.Module, *, channels: int = 1, size: int = 12
) -> Any:
    """Build the method of a configuration for random images of five classes."""
    part = ImageSet(torch.rand(20, channels, size, size), torch.arange(20) % 5)
    setup = Setup(config, Splits(part, part, part, ("a", "b", "c", "d", "e")), Progress(quiet=True), Stop())
    return build_method(config.method, setup, teacher, student)
