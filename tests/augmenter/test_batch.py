"""`HardBatch`: its losses, its disagreement, and its repr."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter, HardBatch
from hard_aug.losses import distillation_loss
from hard_aug.objectives import KL, ResponseChange
from hard_aug.transforms import Affine


def batch_of(teacher: nn.Module, student: nn.Module, images: Tensor, **settings: object) -> HardBatch:
    return HardAugmenter(teacher=teacher, student=student, transform=Affine(), **settings)(images)  # type: ignore[arg-type]


@pytest.mark.parametrize("clean_weight", [0.0, 0.5, 1.0])
def test_the_loss_is_the_weighted_mean_of_both_views(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, clean_weight: float
) -> None:
    hard = batch_of(teacher, plain_student, images)
    parts = [
        distillation_loss(student_logits=plain_student(view), teacher_logits=logits, temperature=3.0)
        for view, logits in ((images, hard.clean_teacher_logits), (hard.images, hard.teacher_logits))
    ]
    expected = clean_weight * parts[0] + (1 - clean_weight) * parts[1]
    assert torch.allclose(hard.loss(temperature=3.0, clean_weight=clean_weight), expected, atol=1e-5)


def test_the_logits_come_with_the_loss(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    hard = batch_of(teacher, plain_student, images, hard_fraction=0.5)
    loss, clean_logits, hard_logits = hard.loss_and_logits(clean_weight=0.2)
    assert torch.equal(loss, hard.loss(clean_weight=0.2))
    assert torch.allclose(clean_logits, plain_student(images), atol=1e-6)
    assert torch.allclose(hard_logits, plain_student(hard.images[:4]), atol=1e-6)
    assert clean_logits.requires_grad
    assert hard_logits.requires_grad


def test_settings_out_of_range(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    hard = batch_of(teacher, student, images)
    with pytest.raises(ValueError, match=r"clean_weight=2\.0: expected a number in \[0, 1\]"):
        hard.loss(clean_weight=2.0)
    with pytest.raises(ValueError, match="temperature=0"):
        hard.loss(temperature=0.0)


def test_the_disagreement_before_the_loss_is_that_of_evaluation_mode(
    teacher: nn.Module, student: nn.Module, images: Tensor
) -> None:
    hard = batch_of(teacher, student, images)
    statistics = student[2].running_mean.clone()
    found = hard.disagreement
    assert student.training
    assert torch.equal(student[2].running_mean, statistics)
    with torch.no_grad():
        logits = student.eval()(hard.images)
    expected = KL(2.0)(teacher_logits=hard.teacher_logits, student_logits=logits)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not found.requires_grad


def test_the_disagreement_after_the_loss_is_that_of_its_forward(
    teacher: nn.Module, student: nn.Module, images: Tensor
) -> None:
    hard = batch_of(teacher, student, images)
    logits = hard.loss_and_logits().hard_logits
    forwards: list[int] = []
    student.register_forward_hook(lambda module, given, out: forwards.append(len(given[0])))
    expected = KL(2.0)(teacher_logits=hard.teacher_logits, student_logits=logits.detach())
    assert torch.allclose(hard.disagreement, expected, atol=1e-6)
    assert forwards == []


def test_the_disagreement_uses_the_students_clean_logits_where_required(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    hard = batch_of(teacher, plain_student, images, objective=ResponseChange())
    before = hard.disagreement
    hard.loss()
    assert torch.allclose(hard.disagreement, before, atol=1e-5)


def test_the_repr_counts_the_hard_images(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    assert repr(batch_of(teacher, student, images, hard_fraction=0.25)) == "HardBatch(2 hard of 8 images (1, 12, 12))"
