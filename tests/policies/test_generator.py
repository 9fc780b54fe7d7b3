"""`Generator`: how its spread is measured, its seed, and distributions that are not normal."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hard_aug.policies import Generator
from hard_aug.transforms import Affine, PatchMix

SPEC = Affine().spec
PLANE = Affine(rotation=None, scale=None, shear=None).spec


def perturbed(strength: float) -> Generator:
    policy = Generator(SPEC)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(strength * torch.randn(parameter.shape, generator=generator))
    return policy


def draws(policy: Generator, count: int) -> Tensor:
    with torch.no_grad():
        return policy.sample(torch.zeros(count, 1, 1, 1), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("strength", [0.0, 0.05, 0.15])
def test_relative_entropy_is_that_of_the_normal_with_its_moments(strength: float) -> None:
    policy = perturbed(strength)
    u = draws(policy, 100_000).double()
    mean, covariance = u.mean(0), torch.cov(u.T)
    size = len(SPEC)
    expected = 0.5 * (size + torch.logdet(covariance) - covariance.trace() - mean.square().sum())
    assert policy.relative_entropy().item() == pytest.approx(float(expected), abs=0.25)


def test_relative_entropy_at_the_start() -> None:
    policy = Generator(SPEC, std=0.5)
    expected = 6 * 0.5 * (1 + 2 * math.log(0.5) - 0.25)
    assert policy.relative_entropy().item() == pytest.approx(expected, abs=0.3)


def test_relative_entropy_of_many_parameters() -> None:
    policy = Generator(PatchMix(image_size=32, patch_size=1).spec, std=0.3)
    entropy = policy.relative_entropy()
    assert entropy.item() == pytest.approx(1024 * 0.5 * (1 + 2 * math.log(0.3) - 0.09), rel=0.01)
    (gradient,) = torch.autograd.grad(entropy, [policy.log_std])
    assert torch.allclose(gradient, torch.full((1024,), 0.91), atol=0.05)


def test_relative_entropy_does_not_vary_from_call_to_call_and_has_gradients() -> None:
    policy = perturbed(0.1)
    assert torch.equal(policy.relative_entropy(), policy.relative_entropy())
    gradients = torch.autograd.grad(policy.relative_entropy(), list(policy.parameters()))
    assert all(bool(g.isfinite().all()) and bool(g.any()) for g in gradients)


def test_the_entropy_of_a_collapsed_generator_has_a_gradient_that_widens_it() -> None:
    policy = Generator(SPEC, std=1e-3)
    gradient = torch.autograd.grad(policy.relative_entropy(), policy.log_std)[0]
    assert bool(gradient.isfinite().all())
    assert float(gradient.min()) > 0.9


def test_the_start_depends_on_the_seed() -> None:
    weights = [Generator(SPEC, seed=seed).network[0].weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert Generator(SPEC, width=7).network[0].weight.shape == (7, 6)


def test_it_learns_a_distribution_with_two_modes() -> None:
    """Two modes at |u_x| = 1.5 with little between them."""
    policy = Generator(PLANE, std=0.5)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        u = policy.sample(torch.zeros(256, 1, 1, 1), generator)
        loss = (u[:, 0].abs() - 1.5).square().mean() - 0.3 * policy.relative_entropy()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = draws(policy, 4000)[:, 0]
    assert 0.25 < float((x > 0).float().mean()) < 0.75
    assert float((x.abs() > 0.9).float().mean()) > 0.8
