"""Search: the hardest of several draws, and the ascent from there."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.objectives import Constraint, Hinge
from hard_aug.policies import Gaussian, Search
from hard_aug.schedules import Alternating, Joint, Threshold
from hard_aug.transforms import Affine

TRANSFORM = Affine()


def height(u: Tensor) -> Tensor:
    """A hill about (1, ..., 1)."""
    return -(u - 1).square().sum(1)


def climb(u: Tensor) -> tuple[Tensor, Tensor]:
    u = u.detach().requires_grad_()
    scores = height(u)
    return scores.detach(), torch.autograd.grad(scores.sum(), u)[0]


def draws(generator: torch.Generator, rows: int = 50) -> list[Tensor]:
    return [torch.randn(rows, 6, generator=generator) for _ in range(4)]


def test_the_best_of_the_draws_for_each_image() -> None:
    candidates = draws(torch.Generator().manual_seed(0))
    found = Search(TRANSFORM.spec, candidates=4, steps=0).search(iter(candidates).__next__, height, climb)
    scores = torch.stack([height(u) for u in candidates])
    expected = torch.stack(candidates)[scores.argmax(0), torch.arange(50)]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("step_size", [0.1, 5.0])
def test_the_ascent_keeps_the_best_point_it_has_seen(step_size: float) -> None:
    candidates = draws(torch.Generator().manual_seed(0))
    policy = Search(TRANSFORM.spec, candidates=2, steps=4, step_size=step_size)
    found = policy.search(iter(candidates).__next__, height, climb)
    start = torch.maximum(height(candidates[0]), height(candidates[1]))
    assert bool((height(found) >= start).all())
    if step_size < 1:
        assert float((height(found) - start).min()) > 0


def test_steps_have_the_size_that_they_are_said_to_have() -> None:
    start = draws(torch.Generator().manual_seed(0))[0]
    found = Search(TRANSFORM.spec, candidates=1, steps=1, step_size=0.2).search(lambda: start, height, climb)
    moved = (found - start).square().mean(1).sqrt()
    assert torch.allclose(moved, torch.full_like(moved, 0.2), rtol=1e-4)


def test_scores_that_are_not_finite_count_as_the_worst() -> None:
    good, bad = torch.ones(2, 6), torch.zeros(2, 6)

    def score(u: Tensor) -> Tensor:
        return torch.where(u[:, 0] == 0, math.nan, 1.0)

    policy = Search(TRANSFORM.spec, candidates=2, steps=0)
    for order in ([good, bad], [bad, good]):
        assert torch.equal(policy.search(iter(order).__next__, score, climb), good)


def augmenter_of(teacher: nn.Module, student: nn.Module, policy: Search | None = None, **parts: Any) -> HardAugmenter:
    policy = Search(TRANSFORM.spec, candidates=6, steps=3) if policy is None else policy
    return HardAugmenter(teacher=teacher, student=student, transform=TRANSFORM, policy=policy, **parts)


def test_images_are_harder_than_plain_draws(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    images = images.repeat(4, 1, 1, 1)

    def score(hard: Any) -> Tensor:
        clean, now = (z.log_softmax(1) for z in (hard.clean_teacher_logits, hard.teacher_logits))
        change = (clean.exp() * (clean - now)).sum(1)
        return (hard.disagreement - 8 * (change - 0.1).clamp(min=0)).detach()

    searched = augmenter_of(teacher, plain_student)(images)
    random = augmenter_of(teacher, plain_student, schedule=Alternating(every=2))
    random(images)
    plain = random(images)  # no call that is due: plain draws
    assert float(score(searched).mean()) > 1.4 * float(score(plain).mean())
    assert float(score(searched).min()) >= float(score(plain).min())
    assert searched.loss().requires_grad


def test_nothing_is_learned_and_nothing_is_left_behind(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    augmenter = augmenter_of(teacher, student)
    first = augmenter(images)
    again = augmenter_of(teacher, student)(images)
    assert torch.equal(first.images, again.images)
    assert student.training
    assert augmenter.dropped_steps == 0
    assert not first.images.requires_grad
    assert list(augmenter.policy.parameters()) == []
    augmenter.load_state_dict(augmenter.state_dict())
    augmenter.step()


def test_a_share_of_the_batch_is_searched(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    policy = Search(TRANSFORM.spec, candidates=1, steps=1)
    whole, half = (
        augmenter_of(teacher, plain_student, policy, schedule=Alternating(fraction=fraction), seed=1)
        for fraction in (1.0, 0.5)
    )
    found = half(images)
    plain = Search(TRANSFORM.spec).propose(images, torch.Generator().manual_seed(1))
    assert torch.equal(found.u[4:], plain[4:])
    assert not torch.equal(found.u[:4], plain[:4])
    assert whole(images).u.shape == found.u.shape


def test_draws_of_a_policy_that_learns(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    learned = Gaussian(TRANSFORM.spec)
    policy = Search(TRANSFORM.spec, candidates=2, steps=0, draws=learned)
    augmenter = augmenter_of(teacher, plain_student, policy, uniform_floor=0.25)
    before = learned.mean.detach().clone()
    for _ in range(3):
        augmenter(images)
    assert not torch.equal(learned.mean, before)
    assert policy.learning_rate == learned.learning_rate
    assert augmenter.uniform_share >= 0.25
    state = augmenter.state_dict()
    same = Search(TRANSFORM.spec, candidates=2, steps=0, draws=Gaussian(TRANSFORM.spec))
    other = augmenter_of(teacher, plain_student, same, uniform_floor=0.25)
    other.load_state_dict(state)
    assert torch.equal(other(images).images, augmenter(images).images)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"schedule": Joint()}, r"Search ascends each image's own; use schedule=Alternating\(\)"),
        ({"schedule": Threshold()}, r"use schedule=Alternating\(\)"),
        ({"invariance": Constraint(0.2)}, r"use invariance=Hinge\(epsilon=0\.2\)"),
    ],
)
def test_what_it_can_not_work_with(teacher: nn.Module, student: nn.Module, parts: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        augmenter_of(teacher, student, **parts)


@pytest.mark.parametrize(
    "arguments",
    [
        {"candidates": 0},
        {"steps": -1},
        {"step_size": 0.0},
        {"candidates": 1, "steps": 0},
        {"draws": Gaussian(TRANSFORM.spec[:2])},
        {"draws": Search(TRANSFORM.spec)},
    ],
)
def test_settings_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"wanted|searches nothing|the draws' policy|among the draws"):
        Search(TRANSFORM.spec, **arguments)


def test_its_own_invariance_is_the_hinge(teacher: nn.Module, student: nn.Module) -> None:
    assert isinstance(augmenter_of(teacher, student).invariance, Hinge)
