"""`TwoViewLoss`: one forward on both views, their weighted losses, and the student in evaluation mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug.losses import TwoViewLoss, distillation_loss
from hard_aug.ops.backend import current_backend


def logits_of(teacher: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return teacher(images), teacher(images.flip(3)[:5])


@pytest.mark.parametrize("clean_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [None, 1.5])
def test_the_weighted_mean_of_both_views(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, clean_weight: float, temperature: float | None
) -> None:
    loss = TwoViewLoss(plain_student, temperature=3.0)
    clean, hard = logits_of(teacher, images)
    found = loss(
        images,
        images.flip(3)[:5],
        clean_teacher_logits=clean,
        hard_teacher_logits=hard,
        temperature=temperature,
        clean_weight=clean_weight,
    )
    expected = [
        distillation_loss(student_logits=plain_student(x), teacher_logits=t, temperature=temperature or 3.0)
        for x, t in ((images, clean), (images.flip(3)[:5], hard))
    ]
    assert torch.allclose(found.loss, clean_weight * expected[0] + (1 - clean_weight) * expected[1], atol=1e-6)
    assert torch.allclose(found.clean_logits, plain_student(images), atol=1e-6)
    assert torch.allclose(found.hard_logits, plain_student(images.flip(3)[:5]), atol=1e-6)


def test_one_forward_in_the_students_own_mode(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    calls: list[tuple[int, bool]] = []
    student.register_forward_hook(lambda module, given, out: calls.append((len(given[0]), module.training)))
    clean, hard = logits_of(teacher, images)
    for training in (True, False):
        student.train(training)
        loss = TwoViewLoss(student)
        loss(images, images.flip(3)[:5], clean_teacher_logits=clean, hard_teacher_logits=hard)
    assert calls == [(13, True), (13, False)]


def test_without_hard_images_it_is_distillation(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    clean, hard = logits_of(teacher, images)
    found = TwoViewLoss(plain_student)(
        images, images[:0], clean_teacher_logits=clean, hard_teacher_logits=hard[:0], clean_weight=0.1
    )
    expected = distillation_loss(student_logits=plain_student(images), teacher_logits=clean)
    assert torch.allclose(found.loss, expected)
    assert found.hard_logits.shape == (0, 5)


def test_views_of_their_own_statistics(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    """See `tests/models/test_batch_norm.py` for the modes themselves."""
    clean, hard = logits_of(teacher, images)
    student[4].p = 0.0  # the dropout
    torch.manual_seed(0)
    expected = student(images)
    found = TwoViewLoss(student, batch_norm="split")(
        images, images.flip(3)[:5] ** 2, clean_teacher_logits=clean, hard_teacher_logits=hard
    )
    assert torch.allclose(found.clean_logits, expected, atol=1e-5)


def test_the_backend_is_that_of_the_loss(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    clean, hard = logits_of(teacher, images)
    losses = [
        TwoViewLoss(plain_student, backend=backend)(  # type: ignore[arg-type]  # from a list
            images, images.flip(3)[:5], clean_teacher_logits=clean, hard_teacher_logits=hard
        ).loss
        for backend in ("torch", None)
    ]
    assert torch.allclose(losses[0], losses[1])
    assert current_backend() == "auto"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"clean_weight": -0.1}, r"clean_weight=-0\.1: expected a number in \[0, 1\]"),
        ({"clean_weight": float("nan")}, "clean_weight=nan"),
        ({"temperature": 0.0}, r"temperature=0\.0"),
        ({"clean_teacher_logits": torch.zeros(8, 7)}, "the teacher has 7 classes and the student 5"),
    ],
)
def test_bad_arguments(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, arguments: dict[str, Any], words: str
) -> None:
    clean, hard = logits_of(teacher, images)
    given = {"clean_teacher_logits": clean, "hard_teacher_logits": hard, **arguments}
    with pytest.raises(ValueError, match=words):
        TwoViewLoss(plain_student)(images, images.flip(3)[:5], **given)


def test_settings(student: nn.Module) -> None:
    with pytest.raises(ValueError, match="expected one of shared, frozen, split"):
        TwoViewLoss(student, batch_norm="both")  # type: ignore[arg-type]  # the mistake
    found = repr(TwoViewLoss(nn.Identity(), temperature=4.0, batch_norm="split"))
    settings = "temperature=4.0, batch_norm='split', backend=None, normalization=None"
    assert found == f"TwoViewLoss(student=Identity(), {settings})"


def test_evaluation_of_the_student(student: nn.Module, images: Tensor) -> None:
    wrapped = torch.compile(student, backend="eager")
    statistics = student[2].running_mean.clone()
    found = TwoViewLoss(wrapped).evaluate_student(images.requires_grad_())
    assert student.training
    assert torch.equal(student[2].running_mean, statistics)
    assert torch.equal(found, student.eval()(images))
    assert not found.requires_grad
