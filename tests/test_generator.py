"""The generator policy: how its spread is measured, what its seed decides, and shapes beyond a normal distribution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hard_aug.policies import Generator
from hard_aug.transforms import Affine

SPEC = Affine().spec
PLANE = Affine(rotation=None, scale=None, shear=None).spec


def disturbed(strength: float) -> Generator:
    policy = Generator(SPEC)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(strength * torch.randn(parameter.shape, generator=generator))
    return policy


def draws(policy: Generator, count: int) -> Tensor:
    with torch.no_grad():
        return policy.propose(torch.zeros(count, 1, 1, 1), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("strength", [0.0, 0.05, 0.15])
def test_relative_entropy_is_that_of_the_normal_with_its_moments(strength: float) -> None:
    policy = disturbed(strength)
    u = draws(policy, 100_000).double()
    mean, covariance = u.mean(0), torch.cov(u.T)
    size = len(SPEC)
    expected = 0.5 * (size + torch.logdet(covariance) - covariance.trace() - mean.square().sum())
    assert policy.relative_entropy().item() == pytest.approx(float(expected), abs=0.25)


def test_relative_entropy_does_not_vary_from_call_to_call_and_has_gradients() -> None:
    policy = disturbed(0.1)
    assert torch.equal(policy.relative_entropy(), policy.relative_entropy())
    gradients = torch.autograd.grad(policy.relative_entropy(), list(policy.parameters()))
    assert all(bool(g.isfinite().all()) and bool(g.any()) for g in gradients)


def test_a_collapsed_generator_is_told_to_spread() -> None:
    policy = Generator(SPEC, std=1e-3)
    gradient = torch.autograd.grad(policy.relative_entropy(), policy.log_std)[0]
    assert bool(gradient.isfinite().all())
    assert float(gradient.min()) > 0.9


def test_the_seed_decides_the_start() -> None:
    weights = [Generator(SPEC, seed=seed).network[0].weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert Generator(SPEC, width=7).network[0].weight.shape == (7, 6)


def test_it_takes_a_shape_that_a_normal_distribution_cannot() -> None:
    """Two modes at |u_x| = 1.5 with little between them."""
    policy = Generator(PLANE, std=0.5)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        u = policy.propose(torch.zeros(256, 1, 1, 1), generator)
        loss = (u[:, 0].abs() - 1.5).square().mean() - 0.3 * policy.relative_entropy()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = draws(policy, 4000)[:, 0]
    assert 0.25 < float((x > 0).float().mean()) < 0.75
    assert float((x.abs() > 0.9).float().mean()) > 0.8
