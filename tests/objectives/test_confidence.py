"""Confidence objectives: small probabilities, targets, wrong classes, and what is missing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.objectives import ConfidenceGap, ConfidenceMargin, ConfidenceRatio, Disagreement, Reference


def logits() -> tuple[Tensor, Tensor, Reference]:
    generator = torch.Generator().manual_seed(0)
    teacher, student, clean = torch.randn(3, 6, 5, generator=generator, dtype=torch.float64)
    return teacher, student, Reference(clean, labels=torch.tensor([0, 1, 2, 3, 4, 0]))


def test_a_confident_student_still_has_a_gradient() -> None:
    """`1 - s` would be 0 in float32."""
    student = torch.tensor([[30.0, 0.0]], requires_grad=True)
    found = ConfidenceGap()(
        teacher_logits=torch.tensor([[0.0, 0.0]]),
        student_logits=student,
        reference=Reference(torch.zeros(1, 2), labels=torch.tensor([0])),
    )
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert float(gradient[0, 1]) == pytest.approx(9.4e-14, rel=0.01)


def test_towards_a_wrong_class() -> None:
    teacher, student, reference = logits()
    assert reference.labels is not None
    wrong = (reference.labels + 2) % 5
    t, s = teacher.softmax(-1), student.softmax(-1)
    rows = torch.arange(6)
    objective = ConfidenceGap(3.0, start=1.0, towards=2)
    for progress, power in ((0.0, 1.0), (0.5, 2.0), (1.0, 3.0)):
        found = objective.at(progress)(teacher_logits=teacher, student_logits=student, reference=reference)
        torch.testing.assert_close(found, t[rows, reference.labels] ** power + s[rows, wrong] ** power)
    with pytest.raises(ValueError, match="towards=5 of 5 classes is the correct class"):
        ConfidenceGap(towards=5)(teacher_logits=teacher, student_logits=student, reference=reference)


def test_the_target_is_the_label_or_the_teachers_class() -> None:
    teacher, student, reference = logits()
    top = reference.teacher_logits.argmax(-1)
    for kind in (ConfidenceGap, ConfidenceRatio, ConfidenceMargin):
        by_teacher = kind(target="teacher")(teacher_logits=teacher, student_logits=student, reference=reference)
        labelled = Reference(reference.teacher_logits, labels=top)
        by_label = kind()(teacher_logits=teacher, student_logits=student, reference=labelled)
        assert torch.equal(by_teacher, by_label)
        assert kind().requires_labels
        assert not kind(target="teacher").requires_labels


@pytest.mark.parametrize(
    ("objective", "reference", "words"),
    [
        (ConfidenceGap(), None, r"requires labels: call augmenter\(images, labels\)"),
        (ConfidenceRatio(), Reference(torch.zeros(2, 3)), r"ConfidenceRatio\(target='teacher'\)"),
        (ConfidenceMargin(target="teacher"), None, r"requires reference=Reference\(teacher_logits"),
    ],
)
def test_what_is_missing(objective: Disagreement, reference: Reference | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        objective(teacher_logits=torch.zeros(2, 3), student_logits=torch.zeros(2, 3), reference=reference)


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (ConfidenceGap, {"gamma": 0.5}, "gamma=0.5: expected a number >= 1"),
        (ConfidenceGap, {"gamma": math.inf}, "gamma=inf: expected a number >= 1"),
        (ConfidenceGap, {"start": 0.5}, "start=0.5: expected a number >= 1"),
        (ConfidenceGap, {"towards": 0}, "towards=0: expected an integer >= 1"),
        (ConfidenceGap, {"towards": True}, "towards=True: expected an integer >= 1"),
        (ConfidenceRatio, {"target": "labels"}, "target='labels': expected 'label' or 'teacher'"),
    ],
)
def test_settings_out_of_range(kind: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind(**arguments)


def test_repr_shows_the_settings() -> None:
    assert repr(ConfidenceGap(2.0)) == "ConfidenceGap(gamma=2.0, start=None, target='label', towards=None)"
    assert repr(ConfidenceMargin(target="teacher")) == "ConfidenceMargin(target='teacher')"


@pytest.mark.parametrize("objective", [ConfidenceGap(), ConfidenceRatio(), ConfidenceMargin()])
@pytest.mark.parametrize("mask", [-math.inf, -1e9, torch.finfo(torch.float32).min])
def test_a_correct_class_that_both_networks_mask(objective: Disagreement, mask: float) -> None:
    teacher, student = torch.randn(2, 3, 4)
    teacher[:, 0] = student[:, 0] = mask
    leaves = teacher.requires_grad_(), student.requires_grad_()
    reference = Reference(teacher, labels=torch.tensor([0, 0, 1]))
    found = objective(teacher_logits=leaves[0], student_logits=leaves[1], reference=reference)
    assert bool(found.isfinite().all())
    for gradient in torch.autograd.grad(found.sum(), leaves):
        assert bool(gradient.isfinite().all())
