"""The label-based adversary: its objective, and what it does to a student."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from experiments.methods import LabelConflict, UnsupportedPartsError
from hard_aug.objectives import Penalty, Reference


def test_the_objective_has_the_expected_values() -> None:
    teacher, student = torch.randn(4, 5), torch.randn(4, 5, requires_grad=True)
    labels = torch.tensor([0, 3, 4, 1])
    reference = Reference(teacher, labels=labels)
    keep = nn.functional.cross_entropy(teacher, labels, reduction="none")
    lose = nn.functional.cross_entropy(student, labels, reduction="none")
    plain = LabelConflict(weight=2.0, non_saturating=False)
    assert torch.allclose(plain(teacher_logits=teacher, student_logits=student, reference=reference), lose - 2 * keep)
    sure = (1 - student.softmax(1).gather(1, labels[:, None]).squeeze(1)).log()
    found = LabelConflict(weight=0.5)(teacher_logits=teacher, student_logits=student, reference=reference)
    assert torch.allclose(found, sure - 0.5 * keep, atol=1e-6)
    with pytest.raises(ValueError, match="requires labels"):
        LabelConflict()(teacher_logits=teacher, student_logits=student)
    with pytest.raises(ValueError, match=r"weight=-1\.0: expected"):
        LabelConflict(weight=-1.0)


def test_its_gradient_is_largest_where_the_student_is_most_confident() -> None:
    extreme = torch.zeros(1, 5, requires_grad=True)
    value = LabelConflict()(
        teacher_logits=torch.zeros(1, 5),
        student_logits=extreme + 200 * torch.eye(5)[:1],
        reference=Reference(torch.zeros(1, 5), labels=torch.tensor([0])),
    )
    value.sum().backward()
    assert bool(extreme.grad is not None and extreme.grad.isfinite().all())
    assert float(extreme.grad[0, 0]) == pytest.approx(-1.0, rel=1e-4)


def test_it_has_the_augmenter_s_settings_and_its_own_objective(build: Any, teacher: nn.Module) -> None:
    chosen = ("policy@augmenter.policy=generator", "augmenter.schedule.every=2", "method.objective.weight=0.5")
    found = build("label_adversary", teacher, teacher, *chosen).augmenter
    assert isinstance(found.objective, LabelConflict)
    assert (found.objective.weight, found.schedule.every) == (0.5, 2)
    assert isinstance(found.invariance, Penalty)
    assert float(found.invariance.multiplier) == 0
    assert type(found.policy).__name__ == "Generator"


def test_it_increases_the_cross_entropy(build: Any, teacher: nn.Module, plain_student: nn.Module) -> None:
    images = torch.rand(64, 1, 12, 12)
    labels = teacher(images).argmax(1)
    fitted = torch.optim.Adam(plain_student.parameters(), 1e-2)
    for _ in range(100):
        fitted.zero_grad()
        nn.functional.cross_entropy(plain_student(images), labels).backward()
        fitted.step()
    chosen = ("augmenter.schedule.every=1", "augmenter.schedule.fraction=1.0", "augmenter.entropy_weight=0")
    chosen += ("augmenter.learning_rate=0.01", "augmenter.min_variance=null", "policy@augmenter.policy=generator")
    objective = ("method.objective.weight=0.1", "method.objective.non_saturating=false")

    def loss_on_views(calls: int) -> float:
        method = build("label_adversary", teacher, plain_student, *chosen, *objective)
        for _ in range(calls):
            method.augmenter(images, labels)
        views = method.augmenter(images, labels).images
        with torch.no_grad():
            return float(nn.functional.cross_entropy(plain_student(views), labels))

    assert loss_on_views(40) > loss_on_views(0) + 0.1


def test_transforms_that_mix_images_are_unsupported(build: Any, teacher: nn.Module, student: nn.Module) -> None:
    mixing = ("transform@augmenter.transform=patch_mix", "augmenter.transform.image_size=12")
    with pytest.raises(UnsupportedPartsError, match="mixes two"):
        build("label_adversary", teacher, student, *mixing, "augmenter.transform.patch_size=4")
