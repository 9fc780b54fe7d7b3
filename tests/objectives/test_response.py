"""ResponseChange: its value at the identity, its gradient, and what is missing."""

from __future__ import annotations

import pytest
import torch

from hard_aug.objectives import Reference, ResponseChange


def test_the_student_against_its_own_clean_prediction() -> None:
    teacher, student, clean = torch.randn(3, 4, 5, dtype=torch.float64)
    reference = Reference(teacher, student_logits=clean)
    found = ResponseChange(2.0)(teacher_logits=teacher, student_logits=student, reference=reference)
    p, q = (clean / 2).softmax(-1), (student / 2).softmax(-1)
    assert torch.allclose(found, 4 * (p * (p / q).log()).sum(-1))


def test_value_and_gradient_are_zero_at_the_identity() -> None:
    clean = torch.randn(4, 5, dtype=torch.float64)
    student = clean.clone().requires_grad_()
    found = ResponseChange()(teacher_logits=clean, student_logits=student, reference=Reference(clean, clean))
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert torch.allclose(found, torch.zeros(4, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(gradient, torch.zeros_like(gradient), atol=1e-12)


def test_the_clean_prediction_gets_no_gradient() -> None:
    clean = torch.randn(4, 5, requires_grad=True)
    student = torch.randn(4, 5, requires_grad=True)
    found = ResponseChange()(teacher_logits=clean, student_logits=student, reference=Reference(clean, clean))
    assert torch.autograd.grad(found.sum(), clean, allow_unused=True) == (None,)


def test_the_students_clean_logits_are_required() -> None:
    for reference in (None, Reference(torch.zeros(2, 3))):
        with pytest.raises(ValueError, match=r"requires the student's logits on the clean images; pass reference="):
            ResponseChange()(teacher_logits=torch.zeros(2, 3), student_logits=torch.zeros(2, 3), reference=reference)


def test_repr_shows_the_settings() -> None:
    assert repr(ResponseChange()) == "ResponseChange(temperature=2.0)"
