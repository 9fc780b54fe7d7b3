"""`Adversary`: what it compares with, what an update returns, and the functions that `Policy.refine` gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration
from hard_aug.inner_loop.adversary import Adversary
from hard_aug.inner_loop.clean_batch import CleanBatch
from hard_aug.inner_loop.networks import Networks
from hard_aug.inner_loop.policy_optimizer import PolicyOptimizer
from hard_aug.objectives import KL, Invariance, KeepRate, Penalty, Reference, kl_divergence
from hard_aug.policies import Gaussian, Policy
from hard_aug.transforms import Affine, PatchMix, Transform, make_context
from hard_aug.utils.distributed import ProcessGroup

CPU = torch.device("cpu")


def adversary_of(
    teacher: nn.Module,
    student: nn.Module,
    transform: Transform,
    policy: Policy | None = None,
    *,
    invariance: Invariance | None = None,
    exploration: Exploration | None = None,
) -> Adversary:
    optimizer = PolicyOptimizer(
        policy=Gaussian(transform.spec) if policy is None else policy,
        invariance=invariance or Penalty(2.0),
        exploration=exploration or Exploration(entropy_weight=0.0, min_variance=None),
        learning_rate=0.02,
        processes=ProcessGroup(CPU),
        device=CPU,
    )
    return Adversary(
        networks=Networks(teacher=teacher, student=student),
        transform=transform,
        objective=KL(2.0),
        optimizer=optimizer,
        generator=torch.Generator().manual_seed(0),
    )


def clean_batch(adversary: Adversary, images: Tensor) -> CleanBatch:
    logits = adversary.networks.teacher(images).detach()
    generator = torch.Generator().manual_seed(1)
    context = make_context(adversary.transform, images, generator=generator, teacher_logits=logits)
    return CleanBatch(images, Reference(logits), context)


def total(teacher: nn.Module, student: nn.Module, hard: Tensor, reference: Tensor) -> Tensor:
    """Compute the formula of the scores."""
    logits = teacher(hard)
    disagreement = kl_divergence(teacher_logits=logits, student_logits=student(hard), temperature=2.0)
    return disagreement - 2.0 * kl_divergence(teacher_logits=reference, student_logits=logits)


def test_the_reference_of_one_image_and_of_a_mix(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    plain = adversary_of(teacher, plain_student, Affine())
    clean = clean_batch(plain, images)
    assert plain.reference(clean, torch.zeros(8, 6)) is clean.reference
    mix = PatchMix(image_size=12, patch_size=4)
    mixing = adversary_of(teacher, plain_student, mix)
    clean = clean_batch(mixing, images)
    u = torch.randn(8, mix.size)
    expected = mix.reference(clean.reference.teacher_logits, u, clean.context)
    assert torch.equal(mixing.reference(clean, u).teacher_logits, expected)


def test_scores_have_no_graph(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    adversary = adversary_of(teacher, plain_student, Affine())
    clean = clean_batch(adversary, images)
    hard = images.flip(3).requires_grad_()
    scores = adversary.score(hard, clean.reference)
    assert not scores.total.requires_grad
    assert torch.allclose(scores.total, total(teacher, plain_student, hard, clean.reference.teacher_logits))


def test_an_update_returns_the_mean_disagreement_before_it(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    transform = Affine()
    adversary = adversary_of(teacher, plain_student, transform)
    assert adversary.update == adversary.update_policy
    before = adversary.optimizer.policy.mean.detach().clone()
    u = adversary.optimizer.policy.sample(images, torch.Generator().manual_seed(0)).detach()
    hard = transform.render(images, u)
    with torch.no_grad():  # an update takes gradients all the same
        found = adversary.update(clean_batch(adversary, images))
    expected = kl_divergence(teacher_logits=teacher(hard), student_logits=plain_student(hard), temperature=2.0).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert not torch.equal(adversary.optimizer.policy.mean, before)


@pytest.mark.parametrize("uniform", [0.0, 0.5])
def test_the_invariance_gets_the_fraction_of_predictions_kept_on_the_policys_own_draws(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, uniform: float
) -> None:
    transform, invariance = Affine(), KeepRate(decay=0.0)
    exploration = Exploration(min_variance=None, min_uniform_fraction=uniform)
    policy = Gaussian(transform.spec, std=2.0)
    adversary = adversary_of(teacher, plain_student, transform, policy, invariance=invariance, exploration=exploration)
    sample = adversary.optimizer.sample(images, torch.Generator().manual_seed(0))
    own = torch.ones(8, dtype=torch.bool) if sample.on_policy is None else sample.on_policy
    hard = transform.render(images, sample.u.detach())
    kept = (teacher(hard).argmax(1) == teacher(images).argmax(1))[own].float().mean()
    adversary.update(clean_batch(adversary, images))
    assert 0 < float(kept) < 1
    assert float(invariance.moving_mean) == pytest.approx(float(kept))


class Recording(Gaussian):
    """Records what `refine` gets, and shifts the draw."""

    is_per_sample = True

    def refine(
        self,
        u: Tensor,
        *,
        sample: Callable[[], Tensor],
        score: Callable[[Tensor], Tensor],
        score_with_gradient: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> Tensor:
        other = sample()
        self.seen: dict[str, Any] = {"u": u, "sample": other, "score": score(other)}
        self.seen["total"], self.seen["gradient"] = score_with_gradient(other)
        return u + 1


@pytest.mark.parametrize("transform", [Affine(), PatchMix(image_size=12, patch_size=4, mode="relaxed")])
def test_refine_gets_draws_scores_and_gradients(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, transform: Transform
) -> None:
    policy = Recording(transform.spec)
    adversary = adversary_of(teacher, plain_student, transform, policy)
    clean = clean_batch(adversary, images)
    u = torch.zeros(8, transform.size)
    assert torch.equal(adversary.refine(clean, u), u + 1)
    seen = policy.seen
    assert seen["u"] is u
    assert torch.equal(seen["sample"], Gaussian(transform.spec).sample(images, torch.Generator().manual_seed(0)))
    leaf = seen["sample"].clone().requires_grad_()
    reference = adversary.reference(clean, leaf).teacher_logits
    expected = total(teacher, plain_student, transform.render(images, leaf, clean.context), reference)
    assert torch.allclose(seen["score"], expected, atol=1e-5)
    assert torch.allclose(seen["total"], expected, atol=1e-5)
    (gradient,) = torch.autograd.grad(expected.sum(), leaf)
    assert torch.allclose(seen["gradient"], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
    for tensor in seen.values():
        assert not tensor.requires_grad
