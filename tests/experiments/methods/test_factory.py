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
from experiments.methods.factory import MethodContext, build_method
from experiments.tasks import Shift
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from hard_aug.data import ImageSet, Splits

CONF = Path(__file__).parents[3] / "experiments" / "conf"
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


class Recorder(Method):
    """A method that keeps its arguments."""

    def __init__(self, student: nn.Module, *, temperature: float, seed: int, classes: int, part: Any = None) -> None:
        self.given = {"student": student, "temperature": temperature, "seed": seed, "classes": classes, "part": part}

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError


def record_context(teacher: nn.Module, channels: int, context: MethodContext) -> Recorder:
    """A function as a target."""
    found = Recorder(teacher, temperature=0.0, seed=0, classes=0)
    found.given |= {"channels": channels, "context": context}
    return found


def context_of(*overrides: str) -> MethodContext:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        config = compose("train", ["temperature=3.0", "seed=7", *overrides])
    part = ImageSet(torch.rand(12, 1, 28, 28), torch.arange(12) % 10)
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(784, 10)) for _ in range(2)]
    given = {"teacher": networks[0].eval().requires_grad_(False), "student": networks[1]}
    given |= {name: (lambda *_: networks[0]) for name in ("other_teacher", "other_student", "trained_student")}
    return MethodContext(
        config=config,
        splits=Splits(part, part, part, tuple(map(str, range(10)))),
        task=Shift(distance=3, train_shift=3),
        folder=Path("nowhere"),
        progress=Progress(quiet=True),
        stop=Stop(),
        **given,
    )


def test_a_target_gets_what_its_signature_names() -> None:
    context = context_of()
    node = OmegaConf.create({"name": "recorder", "_target_": f"{__name__}.Recorder", "seed": 1, "part": {"a": [1]}})
    found = build_method(node, context)
    assert isinstance(found, Recorder)
    assert found.given.pop("student") is context.student  # not a copy
    assert found.given == {"temperature": 3.0, "seed": 1, "classes": 10, "part": {"a": [1]}}
    found = build_method(OmegaConf.create({"name": "f", "_target_": f"{__name__}.record_context"}), context)
    assert isinstance(found, Recorder)
    assert (found.given["student"], found.given["channels"]) == (context.teacher, 1)
    assert found.given["context"] is context


def test_parts_are_instantiated() -> None:
    node = {"name": "recorder", "_target_": f"{__name__}.Recorder"}
    node["part"] = {"_target_": "hard_aug.transforms.Affine", "rotation": None}  # type: ignore[assignment]  # a dict
    found = build_method(OmegaConf.create(node), context_of())
    assert isinstance(found, Recorder)
    assert type(found.given["part"]).__name__ == "Affine"


def test_a_target_that_makes_no_method_raises() -> None:
    node = OmegaConf.create({"name": "linear", "_target_": "torch.nn.Identity"})
    with pytest.raises(TypeError, match=r"method linear: torch.nn.Identity makes no experiments\.methods\.Method"):
        build_method(node, context_of())


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("generated", "pool", "second_batch")])
def test_every_method_trains_the_student(name: str) -> None:
    """Those that need a pool or a generator of images are in tests of their own."""
    context = context_of(f"method={name}")
    method = build_method(context.config.method, context)
    batch = context.splits.train
    method.loss(batch.images, batch.labels).backward()
    method.after_step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in context.student.parameters())
    assert method.planned_evaluations > 0
    assert method.evaluations(10) >= 30
