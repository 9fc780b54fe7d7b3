"""Policies: where they start, what they draw from, how their spread is measured, and that they learn."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from hard_aug.policies import Gaussian, Generator, Policy
from hard_aug.transforms import Affine, Color, Compose, Filter, PatchMix, Transform

SPEC = Compose(Affine(), Color()).spec
BLANK = torch.zeros(4000, 1, 1, 1)


def draw(policy: Policy, seed: int = 0) -> torch.Tensor:
    return policy.propose(BLANK, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [Gaussian, Generator])
def test_start_has_spread_around_the_identity(kind: type[Policy]) -> None:
    u = draw(kind(SPEC))
    assert u.shape == (4000, len(SPEC))
    assert u.dtype == torch.float32
    assert torch.allclose(u.mean(0), torch.zeros(len(SPEC)), atol=0.03)
    assert torch.allclose(u.std(0), torch.full((len(SPEC),), 0.3), atol=0.03)


@pytest.mark.parametrize("kind", [Gaussian, Generator])
def test_draws_come_from_the_given_generator_alone(kind: type[Policy]) -> None:
    before = torch.get_rng_state()
    policy = kind(SPEC)
    assert torch.equal(draw(policy), draw(policy))
    assert not torch.equal(draw(policy), draw(policy, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", [Gaussian, Generator])
def test_gradients_reach_all_that_is_learned(kind: type[Policy]) -> None:
    policy = kind(SPEC)
    weights = torch.randn(len(SPEC), len(SPEC))
    u = draw(policy)
    ((u @ weights) * u).sum().backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, name
    assert torch.equal(torch.tensor(len(policy.variables(u))), torch.tensor(len(list(policy.parameters()))))


@pytest.mark.parametrize("transform", [Compose(Affine(), Color()), Filter(solarize=1.0, motion_blur=1.0)])
@pytest.mark.parametrize("kind", [Gaussian, Generator])
def test_variance_share_is_that_of_the_decoded_parameters(kind: type[Policy], transform: Transform) -> None:
    spec = transform.spec
    policy = kind(spec, std=1.0)  # type: ignore[call-arg]  # both take it
    assert torch.allclose(policy.variance_share(), torch.ones(len(spec)), atol=0.12)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name != "log_std":
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        policy.log_std.copy_(torch.linspace(-4, 0.5, len(spec)))
    values = transform.decode(draw(policy).detach())
    for share, parameter in zip(policy.variance_share(), spec, strict=True):
        decoded = values[parameter.name].log() if parameter.logarithmic else values[parameter.name]
        low, high = (
            (math.log(parameter.low), math.log(parameter.high))
            if parameter.logarithmic
            else (parameter.low, parameter.high)
        )
        expected = float(decoded.var()) / ((high - low) ** 2 / 12)
        assert float(share) == pytest.approx(expected, rel=0.15, abs=1e-3), parameter.name
        assert not share.requires_grad


def test_relative_entropy_of_a_gaussian_is_exact() -> None:
    policy = Gaussian(Affine().spec)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    scale = policy.scale().detach()
    ours = MultivariateNormal(policy.mean.detach(), scale_tril=scale)
    standard = MultivariateNormal(torch.zeros(6), torch.eye(6))
    assert policy.relative_entropy().item() == pytest.approx(-float(kl_divergence(ours, standard)), rel=1e-4)


def test_relative_entropy_of_a_generator_at_its_start() -> None:
    policy = Generator(Affine().spec, std=0.5)
    expected = 6 * 0.5 * (1 + 2 * math.log(0.5) - 0.25)
    assert policy.relative_entropy().item() == pytest.approx(expected, abs=0.3)


def test_a_strength_that_is_always_the_largest_has_no_variance() -> None:
    policy = Gaussian(Filter(blur=2.0, gamma=None, sharpness=None, noise=None).spec, std=1000.0)
    assert float(policy.variance_share()) < 0.01


def test_relative_entropy_of_a_generator_of_many_parameters() -> None:
    policy = Generator(PatchMix(image_size=32, patch_size=1).spec, std=0.3)
    entropy = policy.relative_entropy()
    assert entropy.item() == pytest.approx(1024 * 0.5 * (1 + 2 * math.log(0.3) - 0.09), rel=0.01)
    (gradient,) = torch.autograd.grad(entropy, [policy.log_std])
    assert torch.allclose(gradient, torch.full((1024,), 0.91), atol=0.05)


def test_random_augmentation_has_relative_entropy_zero() -> None:
    assert Gaussian(SPEC, std=1.0).relative_entropy().item() == pytest.approx(0, abs=1e-5)
    assert Gaussian(SPEC, std=0.3).relative_entropy().item() / len(SPEC) == pytest.approx(-0.749, abs=1e-3)


def test_gaussian_correlates_inside_a_block_only() -> None:
    policy = Gaussian(SPEC)
    with torch.no_grad():
        policy.lower.fill_(1.0)
    correlation = torch.corrcoef(draw(policy).T)
    blocks = [p.block for p in SPEC]
    for i in range(len(SPEC)):
        for j in range(i):
            assert (float(correlation[i, j].detach().abs()) > 0.2) == (blocks[i] == blocks[j])


@pytest.mark.parametrize("kind", [Gaussian, Generator])
def test_state_round_trip(kind: type[Policy]) -> None:
    policy, other = kind(SPEC), kind(SPEC)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter))
    other.load_state_dict(policy.state_dict())
    assert torch.equal(draw(policy), draw(other))


@pytest.mark.parametrize("kind", [Gaussian, Generator])
def test_bad_settings_are_refused(kind: type[Policy]) -> None:
    with pytest.raises(ValueError, match="std=0"):
        kind(SPEC, std=0.0)  # type: ignore[call-arg]  # both take it
    with pytest.raises(ValueError, match=r"transform\.spec"):
        kind(())
