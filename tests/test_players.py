"""The players' scores against their formula, and the small helpers of the inner loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hard_aug.objectives import KL, Hinge, Penalty, Reference, kl_divergence
from hard_aug.ops.warp_color.reference import clamp_with_gradient
from hard_aug.players import Players, gradients_of


def test_scores_are_disagreement_less_the_weighted_change(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    players = Players(teacher=teacher, student=plain_student)
    answer = players.teacher_logits(images).detach()
    hard = (images * 0.8 + 0.1).requires_grad_()
    found = players.judge(hard, reference=Reference(answer), objective=KL(3.0), invariance=Penalty(2.5))
    logits = teacher(hard)
    change = kl_divergence(teacher_logits=answer, student_logits=logits)
    disagreement = kl_divergence(teacher_logits=logits, student_logits=plain_student(hard), temperature=3.0)
    scores = disagreement - 2.5 * change
    assert torch.allclose(found.change, change)
    assert torch.allclose(found.disagreement, disagreement)
    assert torch.allclose(found.scores, scores)
    assert found.image_gradient is not None
    assert found.reference_gradient is None
    assert torch.allclose(found.image_gradient, torch.autograd.grad(scores.sum(), hard)[0], atol=1e-6)
    assert not found.scores.requires_grad
    assert not found.image_gradient.requires_grad


def test_given_student_logits_are_constants(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    players = Players(teacher=teacher, student=plain_student)
    answer = Reference(players.teacher_logits(images).detach())
    given = plain_student(images).detach()
    hard = images.clone().requires_grad_()
    found = players.judge(hard, reference=answer, objective=KL(), invariance=Penalty(0.0), student_logits=given)
    expected = kl_divergence(teacher_logits=teacher(hard), student_logits=given, temperature=2.0)
    assert found.image_gradient is not None
    assert torch.allclose(found.image_gradient, torch.autograd.grad(expected.sum(), hard)[0], atol=1e-6)


def test_without_a_gradient_nothing_keeps_a_graph(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    players = Players(teacher=teacher, student=plain_student)
    answer = Reference(players.teacher_logits(images).detach())
    found = players.judge(images, reference=answer, objective=KL(), invariance=Hinge(), gradient=False)
    assert found.image_gradient is None
    with_gradient = players.judge(images, reference=answer, objective=KL(), invariance=Hinge())
    assert torch.allclose(found.scores, with_gradient.scores)


def test_the_clamp_keeps_the_range_and_the_gradient() -> None:
    images = torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.7], requires_grad=True)
    clamped = clamp_with_gradient(images)
    assert torch.equal(clamped.detach().clamp(0, 1), clamped.detach())
    assert torch.allclose(clamped, torch.tensor([0.0, 0.0, 0.3, 1.0, 1.0]))
    assert torch.equal(torch.autograd.grad(clamped.sum(), images)[0], torch.ones(5))
    assert torch.equal(clamp_with_gradient(images.detach()), images.detach().clamp(0, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_clamp_is_exact_in_every_precision(dtype: torch.dtype) -> None:
    images = (3 * torch.randn(4000)).to(dtype).requires_grad_()
    clamped = clamp_with_gradient(images).detach()
    assert 0 <= float(clamped.min()) <= float(clamped.max()) <= 1
    assert torch.equal(clamped, images.detach().clamp(0, 1))


def test_gradients_are_zero_where_an_input_plays_no_part() -> None:
    used, unused = torch.randn(3, requires_grad=True), torch.randn(2, requires_grad=True)
    first, second = gradients_of(used.square(), [used, unused], torch.tensor([1.0, 2.0, 3.0]))
    assert torch.allclose(first, 2 * used.detach() * torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(second, torch.zeros(2))
    assert used.grad is None
