"""Finished runs: their record, data, teacher and trained student."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from yaml import YAMLError

from experiments.configuration.devices import choose_device
from experiments.methods import Hard
from experiments.methods.factory import build_method
from experiments.tasks import Task
from experiments.training import checkpoint
from experiments.training.files import CONFIG, RECORD, STUDENT, read_json
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
            ValueError: the run has another method, or its file is damaged.
        """
        method = build_method(self.config.method, self.setup, self.teacher, self.student().requires_grad_(True))
        if not isinstance(method, Hard):
            raise ValueError(f"{self.folder}: method={self.config.method.name} has no augmenter; expected hard")
        path = self.folder / STUDENT
        try:
            method.load_state_dict(checkpoint.read(path)["method"])
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{path} has no state of this augmenter ({error}); run the command that made it again, with "
                "resume=false"
            ) from error
        return method.augmenter


def load_run(folder: Path, *, progress: Progress | None = None, stop: Stop | None = None) -> SavedRun:
    """Load a finished run.

    Args:
        folder: of the run.
        progress: of the teacher's training, if it is not in the cache any more.
        stop: likewise.

    Raises:
        FileNotFoundError: the folder has no finished run of `experiments.train`.
        ValueError: a file of the run is damaged.
    """
    missing = [name for name in (CONFIG, RECORD, STUDENT) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"no {folder / missing[0]}: expected the folder of a finished run of experiments.train")
    config, record = _read_config(folder / CONFIG), read_json(folder / RECORD)
    splits = instantiate(config.data).to(choose_device(config.device))
    setup = Setup(config, splits, progress or Progress(quiet=True), stop or Stop())
    return SavedRun(folder, record, setup, setup.teacher()[0])


def _read_config(path: Path) -> DictConfig:
    try:
        found = OmegaConf.load(path)
    except (ValueError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} is damaged ({reason}); run the command that made it again, with resume=false"
        ) from error
    if not isinstance(found, DictConfig) or not {"data", "device"} <= found.keys():
        raise ValueError(f"{path} is damaged, no configuration; run the command that made it again, with resume=false")
    return found
