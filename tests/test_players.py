"""The players' scores against their formula, and the small helpers of the inner loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hard_aug.objectives import KL, kl_divergence
from hard_aug.players import Players, clamp_with_gradient, gradients_of


def test_scores_are_disagreement_less_the_weighted_change(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    players = Players(teacher=teacher, student=plain_student)
    reference = players.teacher_logits(images).detach()
    hard = (images * 0.8 + 0.1).requires_grad_()
    scores, change = players.scores(
        hard,
        reference_logits=reference,
        student_logits=None,
        objective=KL(3.0),
        multiplier=torch.tensor(2.5),
    )
    answer = teacher(hard)
    expected_change = kl_divergence(teacher_logits=reference, student_logits=answer)
    disagreement = kl_divergence(teacher_logits=answer, student_logits=plain_student(hard), temperature=3.0)
    assert scores.shape == change.shape == (8,)
    assert torch.allclose(change, expected_change)
    assert torch.allclose(scores, disagreement - 2.5 * expected_change)
    found, expected = (torch.autograd.grad(s.sum(), hard)[0] for s in (scores, disagreement - 2.5 * expected_change))
    assert torch.allclose(found, expected, atol=1e-6)


def test_given_student_logits_are_constants(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    players = Players(teacher=teacher, student=plain_student)
    reference = players.teacher_logits(images).detach()
    given = plain_student(images).detach()
    hard = images.clone().requires_grad_()
    scores, _ = players.scores(
        hard, reference_logits=reference, student_logits=given, objective=KL(), multiplier=torch.tensor(0.0)
    )
    expected = kl_divergence(teacher_logits=teacher(hard), student_logits=given, temperature=2.0)
    assert torch.allclose(
        torch.autograd.grad(scores.sum(), hard)[0], torch.autograd.grad(expected.sum(), hard)[0], atol=1e-6
    )


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
