"""Every public constructor raises for settings that it can't use, and says what was given and what was expected."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter
from hard_aug.objectives import KL, Constraint, Penalty, kl_divergence
from hard_aug.policies import Gaussian, Generator, Search, Uniform
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine, Elastic, Filter, PatchMix, Perspective

SPEC = Affine().spec


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"policy": "gaussian"}, "policy: expected a Policy, got str"),
        ({"policy": Gaussian}, "policy: expected a Policy, got the class Gaussian"),
        ({"policy": nn.Linear(6, 6)}, "policy: expected a Policy, got Linear"),
        ({"objective": nn.KLDivLoss()}, "objective: expected a Disagreement, got KLDivLoss"),
        ({"objective": KL}, "objective: expected a Disagreement, got the class KL"),
        ({"invariance": 6.0}, "invariance: expected an Invariance, got float"),
        ({"invariance": Constraint}, "invariance: expected an Invariance, got the class Constraint"),
        ({"teacher": None}, "teacher: expected a Module, got NoneType"),
        ({"student": nn.Linear}, "student: expected a Module, got the class Linear"),
        ({"transform": Affine}, "transform: expected a Transform, got the class Affine"),
        ({"schedule": Alternating}, "schedule: expected a Schedule, got the class Alternating"),
        ({"exploration": Exploration}, "exploration: expected an Exploration, got the class Exploration"),
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
        (lambda: Constraint(0.1, rate=0.0), r"rate=0\.0.*expected rate > 0"),
        (lambda: Constraint(0.1, decay=-0.1), r"decay=-0\.1.*0 <= decay < 1"),
        (lambda: Constraint(0.1, initial=5.0, maximum=2.0), r"initial=5\.0, maximum=2\.0"),
        *((lambda v=v: Gaussian(SPEC, std=v), f"std={v}") for v in (-1.0, math.nan, math.inf)),
        *((lambda v=v: Generator(SPEC, std=v), f"std={v}") for v in (-1.0, math.nan, math.inf)),
        (lambda: Generator(SPEC, width=0), "width=0"),
        *((lambda v=v: Uniform(SPEC, scale=v), rf"scale={v}: expected.*\(0, 1\]") for v in (0.0, 1.1, -0.5, math.nan)),
        *((lambda v=v: Exploration(entropy_weight=v), f"entropy_weight={v}") for v in (-1.0, math.nan, math.inf)),
        *((lambda v=v: Exploration(min_variance=v), f"min_variance={v}") for v in (0.0, 1.0, -1.1, math.nan, math.inf)),
        *((lambda v=v: Exploration(min_uniform_fraction=v), f"uniform_fraction={v}") for v in (-0.1, 0.96, math.nan)),
        *((lambda v=v: Threshold(every=v), f"every={v}") for v in (0, 1.5)),
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
        (lambda: Search(SPEC, proposal=Gaussian), "proposal=.*expected a policy"),
    ],
)
def test_settings_of_the_wrong_kind(make: Any, words: str) -> None:
    words = re.escape(words) if ".*" not in words else words
    with pytest.raises(TypeError, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PatchMix(image_size=0, patch_size=1), "image_size=0: expected"),
        (lambda: Perspective(tilt=None), "tilt=None: expected degrees"),
        (lambda: Filter(motion_blur=1.0, motion_length=9.0), "motion_length=9.0"),
        (lambda: kl_divergence(teacher_logits=torch.zeros(1, 2), student_logits=torch.zeros(1, 2), temperature=0.0),
         "temperature=0.0"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        make()


@pytest.mark.parametrize("value", [-1.0, 0.0, math.nan, math.inf])
def test_learning_rates_out_of_range(teacher: nn.Module, student: nn.Module, value: float) -> None:
    with pytest.raises(ValueError, match=f"learning_rate={value}: expected a positive number"):
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), learning_rate=value)


def test_a_policy_for_another_transform_names_the_fix(teacher: nn.Module, student: nn.Module) -> None:
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
def test_a_loss_that_raises_does_not_run_the_student(
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
        (torch.arange(7), ValueError, r"labels are torch\.int64 of shape \(7,\): expected integers \(8,\)"),
        (torch.zeros(8, 5, dtype=torch.int64), ValueError, r"shape \(8, 5\)"),
        (torch.zeros(8), ValueError, r"torch\.float32.*expected integers"),
        (list(range(8)), TypeError, r"expected a torch\.Tensor, got list"),
    ],
)
def test_bad_labels(
    teacher: nn.Module, student: nn.Module, images: Tensor, labels: Any, error: type[Exception], words: str
) -> None:
    augmenter, twin = (HardAugmenter(teacher=teacher, student=student, transform=Affine()) for _ in range(2))
    with pytest.raises(error, match=words):
        augmenter(images, labels=labels)
    assert torch.equal(augmenter(images, labels=torch.arange(8)).images, twin(images).images)


@pytest.mark.parametrize("width", [5, 7])
def test_parameters_of_the_wrong_width_are_named(width: int) -> None:
    with pytest.raises(ValueError, match=rf"\(B, 6\), got \(2, {width}\); its parameters are translation_x"):
        Affine().decode(torch.zeros(2, width))


@pytest.mark.parametrize("integer", [np.int64, np.uint8, torch.tensor])
def test_numbers_of_numpy_and_tensors_are_pythons(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, integer: Any
) -> None:
    def make(whole: Any, real: Any) -> HardAugmenter:
        return HardAugmenter(
            teacher=teacher,
            student=plain_student,
            transform=Affine(translation=real(0.25)),
            schedule=Alternating(every=whole(2), steps=whole(2), fraction=real(0.5)),
            exploration=Exploration(min_variance=real(0.125)),
            learning_rate=real(0.5),
            hard_fraction=real(0.75),
            warmup_calls=whole(1),
            seed=whole(3),
        )

    plain, other = make(int, float), make(integer, np.float32)
    assert repr(other) == repr(plain)
    for _ in range(3):
        assert torch.equal(other(images).images, plain(images).images)
    buffer = io.BytesIO()
    torch.save(other.state_dict(), buffer)
    buffer.seek(0)
    plain.load_state_dict(torch.load(buffer, weights_only=True))


@pytest.mark.parametrize("seed", [True, 1.0, "1", 2**64, None])
def test_what_is_no_seed(teacher: nn.Module, student: nn.Module, seed: Any) -> None:
    with pytest.raises(ValueError, match=f"seed={seed!r}: expected an integer of at most 64 bits, such as seed=0"):
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), seed=seed)
