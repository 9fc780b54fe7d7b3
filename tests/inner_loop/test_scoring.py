"""Scores and their gradients against the formula and autograd, also in half precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hard_aug.inner_loop.networks import Networks
from hard_aug.inner_loop.scoring import grad_or_zeros, score_images, score_images_with_gradient
from hard_aug.objectives import KL, Hinge, Penalty, Reference, kl_divergence
from tests.helpers.confident_networks import confident_networks


def test_scores_are_the_disagreement_less_the_weighted_divergence(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    networks = Networks(teacher=teacher, student=plain_student)
    clean_logits = networks.teacher(images).detach()
    hard = (images * 0.8 + 0.1).requires_grad_()
    found, image_gradient, reference_gradient = score_images_with_gradient(
        hard, networks=networks, reference=Reference(clean_logits), objective=KL(3.0), invariance=Penalty(2.5)
    )
    logits = teacher(hard)
    divergence = kl_divergence(teacher_logits=clean_logits, student_logits=logits)
    disagreement = kl_divergence(teacher_logits=logits, student_logits=plain_student(hard), temperature=3.0)
    total = disagreement - 2.5 * divergence
    assert torch.allclose(found.teacher_divergence, divergence)
    assert torch.allclose(found.disagreement, disagreement)
    assert torch.allclose(found.total, total)
    assert torch.equal(found.kept, logits.argmax(1) == clean_logits.argmax(1))
    assert reference_gradient is None
    assert torch.allclose(image_gradient, torch.autograd.grad(total.sum(), hard)[0], atol=1e-6)
    for tensor in (found.total, found.disagreement, found.teacher_divergence, image_gradient):
        assert not tensor.requires_grad


def test_a_reference_with_a_graph_gets_a_gradient(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    networks = Networks(teacher=teacher, student=plain_student)
    leaf = teacher(images).detach().requires_grad_()
    _, _, found = score_images_with_gradient(
        images, networks=networks, reference=Reference(2 * leaf), objective=KL(), invariance=Penalty(2.0)
    )
    cost = -2.0 * kl_divergence(teacher_logits=2 * leaf, student_logits=teacher(images).detach())
    (expected,) = torch.autograd.grad(cost.sum(), leaf)
    assert found is not None
    assert torch.allclose(2 * found, expected, atol=1e-6)


def test_scores_without_the_gradient_are_the_same(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    networks = Networks(teacher=teacher, student=plain_student)
    settings = {"networks": networks, "reference": Reference(teacher(images.flip(3)).detach()), "objective": KL()}
    with torch.no_grad():
        found = score_images(images, **settings, invariance=Hinge())
        free = score_images(images, **settings, invariance=None)
    expected, _, _ = score_images_with_gradient(images, **settings, invariance=Hinge())
    assert torch.allclose(found.total, expected.total)
    assert torch.equal(free.total, free.disagreement)
    leaf = images.clone().requires_grad_()
    assert score_images(leaf, **settings, invariance=Hinge()).total.requires_grad


def test_networks_are_checked(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    reference = Reference(teacher(images).detach())
    settings = {"reference": reference, "objective": KL(), "invariance": Penalty()}
    other = Networks(teacher=teacher, student=nn.Sequential(nn.Flatten(), nn.Linear(144, 7)))
    for function in (score_images, score_images_with_gradient):
        with pytest.raises(ValueError, match="5 classes and the student 7"):
            function(images, networks=other, **settings)

    class Detached(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return plain_student(inputs).detach()

    detached = Networks(teacher=teacher, student=Detached())
    with pytest.raises(ValueError, match=r"the student's logits carry no gradient.*policy=Search\(transform\.spec\)"):
        score_images_with_gradient(images, networks=detached, **settings)


@pytest.mark.parametrize("bias", [0.0, 12.0, 15.0])
def test_gradients_of_confident_networks_do_not_vanish_in_half_precision(bias: float) -> None:
    teacher, student, images = confident_networks(bias)
    networks, objective = Networks(teacher=teacher, student=student), KL(temperature=1.0)
    with torch.no_grad():
        reference = Reference(teacher(images))
    found = {}
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.float16, enabled=enabled):
            _, gradient, _ = score_images_with_gradient(
                images, networks=networks, reference=reference, objective=objective, invariance=Penalty(0.0)
            )
        assert gradient.dtype == torch.float32
        found[enabled] = gradient.flatten(1).double()
    full, half = found[False], found[True]
    ratio = half.norm(dim=1) / full.norm(dim=1)
    assert torch.allclose(ratio, torch.ones_like(ratio), atol=0.01)
    assert float(torch.cosine_similarity(half, full, dim=1).min()) > 0.999
    leaf = images.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.float16):
        score = objective(teacher_logits=teacher(leaf), student_logits=student(leaf)).sum()
    plain = torch.autograd.grad(score, leaf)[0].flatten(1).double()
    if bias == 15.0:  # without the scaling most of the gradient is lost
        assert float((plain - full).norm() / full.norm()) > 0.5


def test_gradients_are_zero_for_inputs_that_are_not_used() -> None:
    used, unused = torch.randn(3, requires_grad=True), torch.randn(2, requires_grad=True)
    first, second = grad_or_zeros(used.square(), [used, unused], torch.tensor([1.0, 2.0, 3.0]))
    assert torch.allclose(first, 2 * used.detach() * torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(second, torch.zeros(2))
    assert used.grad is None
    assert grad_or_zeros(used.sum(), []) == []
