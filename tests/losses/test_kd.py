"""The distillation loss against the plain formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hard_aug.losses import distillation_loss


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_formula(temperature: float) -> None:
    student, teacher = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    found = distillation_loss(student_logits=student, teacher_logits=teacher, temperature=temperature)
    expected = temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean"
    )
    assert torch.allclose(found, expected, atol=1e-6)
    (gradient,) = torch.autograd.grad(found, student, retain_graph=True)
    difference = F.softmax(student / temperature, 1) - F.softmax(teacher / temperature, 1)
    assert torch.allclose(gradient, temperature * difference / 6, atol=1e-6)
    found.backward()
    assert teacher.grad is None


def test_the_default_temperature_is_two() -> None:
    student, teacher = torch.randn(2, 6, 5)
    found = distillation_loss(student_logits=student, teacher_logits=teacher)
    assert torch.equal(found, distillation_loss(student_logits=student, teacher_logits=teacher, temperature=2.0))


def test_an_empty_batch_is_zero_with_a_graph() -> None:
    student = torch.randn(0, 5, requires_grad=True)
    loss = distillation_loss(student_logits=student, teacher_logits=torch.randn(0, 5))
    loss.backward()
    assert float(loss.detach()) == 0
    assert student.grad is not None
    assert student.grad.shape == (0, 5)


def test_bad_arguments() -> None:
    student, teacher = torch.randn(2, 6, 5)
    with pytest.raises(ValueError, match=r"temperature=0\.0"):
        distillation_loss(student_logits=student, teacher_logits=teacher, temperature=0.0)
    with pytest.raises(ValueError, match="5"):
        distillation_loss(student_logits=student, teacher_logits=teacher[:, :4])


@pytest.mark.parametrize(("student_classes", "teacher_classes"), [(1, 1), (1, 5), (5, 1)])
def test_a_single_logit_is_refused(student_classes: int, teacher_classes: int) -> None:
    """Its softmax is constant: the loss and its gradient would be exactly zero."""
    student, teacher = torch.randn(6, student_classes), torch.randn(6, teacher_classes)
    name = "student_logits" if student_classes == 1 else "teacher_logits"
    with pytest.raises(ValueError, match=rf"{name} of shape \(6, 1\): expected at least two classes.*torch\.cat"):
        distillation_loss(student_logits=student, teacher_logits=teacher)
    logit = torch.randn(6, 1)  # what the error says is the logistic loss
    both = torch.cat((torch.zeros_like(logit), logit), 1)
    found = distillation_loss(student_logits=both, teacher_logits=100 * both.sign(), temperature=1.0)
    expected = F.binary_cross_entropy_with_logits(logit, (logit > 0).float())
    assert torch.allclose(found, expected, atol=1e-5)
