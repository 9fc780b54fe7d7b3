"""Finished runs: their record, data, teacher and trained student."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from experiments.configuration.devices import choose_device
from experiments.methods import Hard
from experiments.methods.factory import build_method
from experiments.tasks import Task
from experiments.training.files import CONFIG, RECORD, STUDENT
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from experiments.training.setup import Setup
from hard_aug import HardAugmenter
from hard_aug.data import Splits


@dataclass(frozen=True)
class SavedRun:
    """A finished run.

    Attributes:
        folder: of the run.
        record: the content of `metrics.json`.
        setup: data, task and networks.
        teacher: the frozen teacher, from the cache (trained again if it is not there).
    """

    folder: Path
    record: dict[str, Any]
    setup: Setup
    teacher: nn.Module

    @property
    def config(self) -> DictConfig:
        """The composed configuration."""
        return self.setup.config

    @property
    def splits(self) -> Splits:
        """The data."""
        return self.setup.splits

    @property
    def task(self) -> Task:
        """The task."""
        return self.setup.task

    def student(self) -> nn.Module:
        """Return the trained student in evaluation mode."""
        return self.setup.trained_student(self.folder)

    def augmenter(self) -> HardAugmenter:
        """Return the augmenter of a run with the method `hard`, as at the end of its training.

        Raises:
            ValueError: the run has another method.
        """
        method = build_method(self.config.method, self.setup, self.teacher, self.student().requires_grad_(True))
        if not isinstance(method, Hard):
            raise ValueError(f"{self.folder}: method={self.config.method.name} has no augmenter; expected hard")
        state = torch.load(self.folder / STUDENT, map_location=self.setup.device, weights_only=True)
        method.load_state_dict(state["method"])
        return method.augmenter


def load_run(folder: Path, *, progress: Progress | None = None, stop: Stop | None = None) -> SavedRun:
    """Load a finished run.

    Args:
        folder: of the run.
        progress: of the teacher's training, if it is not in the cache any more.
        stop: likewise.

    Raises:
        FileNotFoundError: the folder has no finished run of `experiments.train`.
    """
    missing = [name for name in (CONFIG, RECORD, STUDENT) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"no {folder / missing[0]}: expected the folder of a finished run of experiments.train")
    config = OmegaConf.load(folder / CONFIG)
    splits = instantiate(config.data).to(choose_device(config.device))
    setup = Setup(config, splits, progress or Progress(quiet=True), stop or Stop())
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return SavedRun(folder, record, setup, setup.teacher()[0])
