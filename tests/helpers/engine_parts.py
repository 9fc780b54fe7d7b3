"""Small configurations, data and networks, for tests that run whole experiments."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.data import sources as data
from experiments.runs import student as runs
from hard_aug.data import Splits

#: Overrides with which a run takes a second.
SMALL = (
    "steps=6",
    "batch_size=16",
    "teacher.steps=2",
    "teacher.batch_size=16",
    "threads=1",
    "device=cpu",
    "log_every=2",
    "checkpoint_every=3",
)


def use_few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the validation and test images of the embedded digits to 60 and 120, so that evaluation is fast."""
    whole = data._mnist5k()
    few = Splits(whole.train, whole.validation[slice(0, 60)], whole.test[slice(0, 120)], whole.classes)
    monkeypatch.setattr(data, "_mnist5k", lambda: few)


def small_config(folder: Path, *overrides: str, name: str = "train") -> DictConfig:
    """Compose a configuration of `experiments.train` with `SMALL`, and the teacher cache in `folder`."""
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(name, [*SMALL, "logger=[csv]", f"teacher_cache={folder}/teachers", *overrides])


class PlainStudent(nn.Module):
    """A network without dropout and BatchNorm: the result does not depend on the number of processes."""

    def __init__(self, *, size: int = 28, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, 32), nn.Tanh(), nn.Linear(32, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)`."""
        found: Tensor = self.layers(images)
        return found


def distil(models: Path) -> Path:
    """Return a finished run of plain distillation, in the folder of the models."""
    runs.run(small_config(models, "data.canvas=32", "method=kd"), models / "kd", quiet=True)
    return models / "kd"
