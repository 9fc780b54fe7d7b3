"""`Search`: the hardest of several draws, and gradient ascent from there."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter
from hard_aug.policies import Gaussian, GroupBandit, Policy, Search, Uniform
from hard_aug.schedules import Alternating
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


def refined(policy: Search, candidates: list[Tensor], score: Callable[[Tensor], Tensor] = height) -> Tensor:
    u = torch.full_like(candidates[0], math.nan)  # the search starts from new draws
    return policy.refine(u, sample=iter(candidates).__next__, score=score, score_with_gradient=climb)


def test_the_best_of_the_draws_for_each_image() -> None:
    candidates = draws(torch.Generator().manual_seed(0))
    found = refined(Search(TRANSFORM.spec, candidates=4), candidates)
    scores = torch.stack([height(u) for u in candidates])
    expected = torch.stack(candidates)[scores.argmax(0), torch.arange(50)]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("step_size", [0.1, 5.0])
def test_gradient_ascent_keeps_the_best_point_seen(step_size: float) -> None:
    candidates = draws(torch.Generator().manual_seed(0))
    policy = Search(TRANSFORM.spec, candidates=2, steps=4, step_size=step_size)
    found = refined(policy, candidates)
    start = torch.maximum(height(candidates[0]), height(candidates[1]))
    assert bool((height(found) >= start).all())
    if step_size < 1:
        assert float((height(found) - start).min()) > 0


def test_a_step_has_the_given_size() -> None:
    start = draws(torch.Generator().manual_seed(0))[0]
    found = refined(Search(TRANSFORM.spec, candidates=1, steps=1, step_size=0.2), [start])
    moved = (found - start).square().mean(1).sqrt()
    assert torch.allclose(moved, torch.full_like(moved, 0.2), rtol=1e-4)


def test_scores_that_are_not_finite_count_as_the_worst() -> None:
    good, bad = torch.ones(2, 6), torch.zeros(2, 6)

    def score(u: Tensor) -> Tensor:
        return torch.where(u[:, 0] == 0, math.nan, 1.0)

    policy = Search(TRANSFORM.spec, candidates=2, steps=0)
    for order in ([good, bad], [bad, good]):
        assert torch.equal(refined(policy, order, score), good)


def augmenter_of(teacher: nn.Module, student: nn.Module, policy: Search | None = None, **parts: Any) -> HardAugmenter:
    policy = Search(TRANSFORM.spec, candidates=6, steps=3) if policy is None else policy
    return HardAugmenter(teacher=teacher, student=student, transform=TRANSFORM, policy=policy, **parts)


def test_images_are_harder_than_plain_draws(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    images = images.repeat(4, 1, 1, 1)

    def score(hard: Any) -> Tensor:
        clean, now = (z.log_softmax(1) for z in (hard.clean_teacher_logits, hard.teacher_logits))
        divergence = (clean.exp() * (clean - now)).sum(1)
        return (hard.disagreement - 8 * (divergence - 0.1).clamp(min=0)).detach()

    searched = augmenter_of(teacher, plain_student)(images)
    random = augmenter_of(teacher, plain_student, schedule=Alternating(every=2))
    random(images)
    plain = random(images)  # not due: plain draws
    assert float(score(searched).mean()) > 1.4 * float(score(plain).mean())
    assert float(score(searched).min()) >= float(score(plain).min())
    assert searched.loss().requires_grad


def test_nothing_is_learned(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    augmenter = augmenter_of(teacher, student)
    first = augmenter(images)
    again = augmenter_of(teacher, student)(images)
    assert torch.equal(first.images, again.images)
    assert student.training
    assert augmenter.dropped_steps == 0
    assert not first.images.requires_grad
    assert list(augmenter.policy.parameters()) == []
    assert isinstance(augmenter.policy, Search)
    assert isinstance(augmenter.policy.proposal, Uniform)
    augmenter.load_state_dict(augmenter.state_dict())


def test_a_fraction_of_the_batch_is_searched(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    policy = Search(TRANSFORM.spec, candidates=1, steps=1)
    whole, half = (
        augmenter_of(teacher, plain_student, policy, schedule=Alternating(fraction=fraction), seed=1)
        for fraction in (1.0, 0.5)
    )
    found = half(images)
    plain = Search(TRANSFORM.spec).sample(images, torch.Generator().manual_seed(1))
    assert torch.equal(found.u[4:], plain[4:])
    assert not torch.equal(found.u[:4], plain[:4])
    assert whole(images).u.shape == found.u.shape


def test_a_proposal_that_learns(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    learned = Gaussian(TRANSFORM.spec)
    policy = Search(TRANSFORM.spec, candidates=2, steps=0, proposal=learned)
    augmenter = augmenter_of(teacher, plain_student, policy, exploration=Exploration(min_uniform_fraction=0.25))
    before = learned.mean.detach().clone()
    for _ in range(3):
        augmenter(images)
    assert not torch.equal(learned.mean, before)
    assert policy.learning_rate == learned.learning_rate
    assert augmenter.uniform_fraction >= 0.25
    state = augmenter.state_dict()
    same = Search(TRANSFORM.spec, candidates=2, steps=0, proposal=Gaussian(TRANSFORM.spec))
    other = augmenter_of(teacher, plain_student, same, exploration=Exploration(min_uniform_fraction=0.25))
    other.load_state_dict(state)
    assert torch.equal(other(images).images, augmenter(images).images)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"candidates": 0}, "candidates=0: expected an integer >= 1"),
        ({"steps": -1}, "steps=-1: expected an integer >= 0"),
        ({"step_size": 0.0}, r"step_size=0\.0: expected a positive number"),
        ({"candidates": 1, "steps": 0}, "searches nothing"),
        ({"proposal": Gaussian(TRANSFORM.spec[:2])}, "has 2 parameters and the transform 6"),
        ({"proposal": Search(TRANSFORM.spec)}, "cannot be the proposal of a Search"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Search(TRANSFORM.spec, **settings)


@pytest.mark.parametrize("proposal", [Gaussian(TRANSFORM.spec), GroupBandit(TRANSFORM.spec), Uniform(TRANSFORM.spec)])
def test_what_is_set_and_learned_is_the_proposals(proposal: Policy) -> None:
    policy = Search(TRANSFORM.spec, proposal=proposal)
    assert policy.starts_from_reach == proposal.starts_from_reach
    assert policy.learns_from_scores == proposal.learns_from_scores
    reach = torch.linspace(0.1, 1, 12).view(6, 2)
    if not proposal.starts_from_reach:
        with pytest.raises(ValueError, match="Uniform has no start that calibrated ranges could set"):
            policy.set_reach(reach)
        return
    twin = copy.deepcopy(proposal)
    policy.set_reach(reach)
    twin.set_reach(reach)
    u = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    statistics = policy.statistics(u, u[:, 0])
    policy.learn(statistics)
    twin.learn(twin.statistics(u, u[:, 0]))
    for found, expected in zip(proposal.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(found, expected)
    assert len(statistics) == (2 if proposal.learns_from_scores else 0)


def test_the_repr_shows_the_settings() -> None:
    found = repr(Search(TRANSFORM.spec, candidates=4, proposal=Gaussian(TRANSFORM.spec)))
    assert "candidates=4, steps=0, step_size=0.5" in found
    assert "(proposal): Gaussian(translation_x" in found
