"""Every public constructor and method refuses what it can't use, and says what was given and what was wanted."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.objectives import KL, Constraint, Penalty, kl_divergence
from hard_aug.policies import Gaussian, Generator, Search
from hard_aug.schedules import Joint
from hard_aug.spread import Spread
from hard_aug.transforms import Affine, Elastic, Filter, PatchMix, Perspective

SPEC = Affine().spec


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"policy": "gaussian"}, "policy: wanted a Policy, got str"),
        ({"policy": Gaussian}, "policy: wanted a Policy, got the class Gaussian"),
        ({"policy": nn.Linear(6, 6)}, "policy: wanted a Policy, got Linear"),
        ({"objective": nn.KLDivLoss()}, "objective: wanted a Disagreement, got KLDivLoss"),
        ({"objective": KL}, "objective: wanted a Disagreement, got the class KL"),
        ({"invariance": 6.0}, "invariance: wanted an Invariance, got float"),
        ({"invariance": Constraint}, "invariance: wanted an Invariance, got the class Constraint"),
        ({"teacher": None}, "teacher: wanted a Module, got NoneType"),
        ({"student": nn.Linear}, "student: wanted a Module, got the class Linear"),
        ({"transform": Affine}, "transform: wanted a Transform, got the class Affine"),
        ({"schedule": Joint}, "schedule: wanted Alternating, Threshold or Joint"),
        ({"temperature": 2.0}, "unexpected keyword"),
    ],
)
def test_parts_of_the_wrong_kind(teacher: nn.Module, student: nn.Module, kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        HardAugmenter(**{"teacher": teacher, "student": student, "transform": Affine(), **kwargs})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        *((lambda v=v: KL(v), f"temperature={v}") for v in (-1.0, math.nan, math.inf)),
        *((lambda v=v: Penalty(v), f"weight={v}") for v in (-0.1, math.nan, math.inf)),
        *((lambda v=v: Constraint(v), f"epsilon={v}") for v in (-1.0, math.nan, math.inf)),
        (lambda: Constraint(0.1, rate=0.0), r"rate=0\.0.*wanted rate > 0"),
        (lambda: Constraint(0.1, decay=-0.1), r"decay=-0\.1.*0 <= decay < 1"),
        (lambda: Constraint(0.1, initial=5.0, maximum=2.0), r"initial=5\.0, maximum=2\.0"),
        *((lambda v=v: Gaussian(SPEC, std=v), f"std={v}") for v in (-1.0, math.nan, math.inf)),
        *((lambda v=v: Generator(SPEC, std=v), f"std={v}") for v in (-1.0, math.nan, math.inf)),
        (lambda: Generator(SPEC, width=0), "width=0"),
        *((lambda v=v: Spread(weight=v, floor=None), f"spread_weight={v}") for v in (-1.0, math.nan, math.inf)),
        *((lambda v=v: Spread(weight=0.0, floor=v), f"spread_floor={v}") for v in (0.0, 1.0, -1.1, math.nan, math.inf)),
    ],
)
def test_numbers_out_of_range(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        *((lambda v=v: PatchMix(image_size=8, patch_size=v), f"patch_size={v!r}") for v in (4.5, (4.5, 4), (4,), "4")),
        *((lambda v=v: Elastic(control=v), f"control={v!r}") for v in (4.5, (4,), "44")),
        (lambda: Search(SPEC, draws=Gaussian), "draws=.*wanted a policy"),
        (lambda: Joint(teacher_gradient="no"), "teacher_gradient='no'"),
    ],
)
def test_settings_of_the_wrong_kind(make: Any, words: str) -> None:
    words = re.escape(words) if ".*" not in words else words
    with pytest.raises(TypeError, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PatchMix(image_size=0, patch_size=1), "image_size=0: wanted at least 1"),
        (lambda: Perspective(tilt=None), "tilt=None: wanted degrees"),
        (lambda: Filter(motion_blur=1.0, motion_length=9.0), "motion_length=9.0"),
        (lambda: kl_divergence(teacher_logits=torch.zeros(1, 2), student_logits=torch.zeros(1, 2), temperature=0.0),
         "temperature=0.0"),
    ],
)  # fmt: skip
def test_settings_without_a_sense(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


def test_a_scaler_that_is_none(teacher: nn.Module, student: nn.Module) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine())
    with pytest.raises(TypeError, match=r"grad_scaler: wanted a torch\.amp\.GradScaler, got float"):
        augmenter.step(1024.0)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("value", [-1.0, 0.0, math.nan, math.inf])
def test_learning_rates_out_of_range(teacher: nn.Module, student: nn.Module, value: float) -> None:
    with pytest.raises(ValueError, match=f"learning_rate={value}: wanted a positive number"):
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), learning_rate=value)


def test_a_policy_of_another_size_says_how_to_make_the_right_one(teacher: nn.Module, student: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"policy has 6 parameters and the transform 5.*Generator\(transform\.spec\)"):
        HardAugmenter(teacher=teacher, student=student, transform=Affine(rotation=None), policy=Generator(SPEC))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"temperature": -1.0}, "temperature=-1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"clean_weight": -0.1}, "clean_weight=-0.1"),
        ({"clean_weight": math.nan}, "clean_weight=nan"),
    ],
)
def test_a_refused_loss_does_not_ask_the_student(
    teacher: nn.Module, student: nn.Module, images: Tensor, kwargs: dict[str, float], words: str
) -> None:
    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine())(images)
    statistics = student[2].running_mean.clone()
    with pytest.raises(ValueError, match=words):
        hard.loss(**kwargs)
    assert torch.equal(student[2].running_mean, statistics)


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        (torch.arange(7), ValueError, r"labels are torch\.int64 of shape \(7,\): wanted integers \(8,\)"),
        (torch.zeros(8, 5, dtype=torch.int64), ValueError, r"shape \(8, 5\)"),
        (torch.zeros(8), ValueError, r"torch\.float32.*wanted integers"),
        (list(range(8)), TypeError, r"wanted a torch\.Tensor, got list"),
    ],
)
def test_labels_that_are_none(
    teacher: nn.Module, student: nn.Module, images: Tensor, labels: Any, error: type[Exception], words: str
) -> None:
    augmenter, twin = (HardAugmenter(teacher=teacher, student=student, transform=Affine()) for _ in range(2))
    with pytest.raises(error, match=words):
        augmenter(images, labels=labels)
    assert torch.equal(augmenter(images, labels=torch.arange(8)).images, twin(images).images)


@pytest.mark.parametrize("width", [5, 7])
def test_parameters_of_the_wrong_width_are_refused_by_name(width: int) -> None:
    with pytest.raises(ValueError, match=rf"\(B, 6\), got \(2, {width}\); its parameters are translation_x"):
        Affine().decode(torch.zeros(2, width))
