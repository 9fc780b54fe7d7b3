"""Methods are built from their configuration: what is passed to a target, and every option of the group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import Tensor, nn

from experiments.methods import Method
from experiments.methods.factory import build_method
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from experiments.training.setup import Setup
from hard_aug.data import ImageSet, Splits

CONF = Path(__file__).parents[3] / "experiments" / "conf"
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


class Recorder(Method):
    """A method that keeps its arguments."""

    def __init__(self, student: nn.Module, *, temperature: float, seed: int, part: Any = None) -> None:
        self.given = {"student": student, "temperature": temperature, "seed": seed, "part": part}

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError


def record_setup(teacher: nn.Module, setup: Setup) -> Recorder:
    """A function as a target."""
    found = Recorder(teacher, temperature=0.0, seed=0)
    found.given |= {"setup": setup}
    return found


def parts_of(*overrides: str) -> tuple[Setup, nn.Module, nn.Module]:
    """Return a setup with random images, a teacher and a student."""
    with initialize_config_module("experiments.conf", version_base="1.3"):
        config = compose("train", ["temperature=3.0", "seed=7", *overrides])
    part = ImageSet(torch.rand(12, 1, 28, 28), torch.arange(12) % 10)
    splits = Splits(part, part, part, tuple(map(str, range(10))))
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(784, 10)) for _ in range(2))
    return Setup(config, splits, Progress(quiet=True), Stop()), teacher.eval().requires_grad_(False), student


def build(node: dict[str, Any], setup: Setup, teacher: nn.Module, student: nn.Module) -> Recorder:
    found = build_method(OmegaConf.create(node), setup, teacher, student)
    assert isinstance(found, Recorder)
    return found


def test_a_target_gets_what_its_signature_names() -> None:
    setup, teacher, student = parts_of()
    node = {"name": "recorder", "_target_": f"{__name__}.Recorder", "seed": 1, "part": {"a": [1]}}
    found = build(node, setup, teacher, student)
    assert found.given.pop("student") is student  # not a copy
    assert found.given == {"temperature": 3.0, "seed": 1, "part": {"a": [1]}}
    found = build({"name": "function", "_target_": f"{__name__}.record_setup"}, setup, teacher, student)
    assert found.given["student"] is teacher
    assert found.given["setup"] is setup


def test_parts_are_instantiated() -> None:
    part = {"_target_": "hard_aug.transforms.Affine", "rotation": None}
    found = build({"name": "recorder", "_target_": f"{__name__}.Recorder", "part": part}, *parts_of())
    assert type(found.given["part"]).__name__ == "Affine"


def test_a_target_that_makes_no_method_raises() -> None:
    node = OmegaConf.create({"name": "linear", "_target_": "torch.nn.Identity"})
    with pytest.raises(TypeError, match=r"method linear: torch.nn.Identity makes no experiments\.methods\.Method"):
        build_method(node, *parts_of())


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("generated", "pool", "second_batch")])
def test_every_method_trains_the_student(name: str) -> None:
    """Those that need a pool or a generator of images are in tests of their own."""
    setup, teacher, student = parts_of(f"method={name}")
    method = build_method(setup.config.method, setup, teacher, student)
    batch = setup.splits.train
    method.loss(batch.images, batch.labels).backward()
    method.after_step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in student.parameters())
    assert method.planned_evaluations > 0
    assert method.evaluations(10) >= 30
