"""`Gaussian`: its relative entropy in closed form, and which parameters are correlated."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from hard_aug.policies import Gaussian
from hard_aug.transforms import Affine, Color, Compose, Filter, PatchMix

SPEC = Compose(Affine(), Color()).spec


def test_relative_entropy_is_exact() -> None:
    policy = Gaussian(Affine().spec)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    ours = MultivariateNormal(policy.mean.detach(), scale_tril=policy.scale().detach())
    standard = MultivariateNormal(torch.zeros(6), torch.eye(6))
    assert policy.relative_entropy().item() == pytest.approx(-float(kl_divergence(ours, standard)), rel=1e-4)


def test_random_augmentation_has_relative_entropy_zero() -> None:
    assert Gaussian(SPEC, std=1.0).relative_entropy().item() == pytest.approx(0, abs=1e-5)
    assert Gaussian(SPEC, std=0.3).relative_entropy().item() / len(SPEC) == pytest.approx(-0.749, abs=1e-3)


def test_draws_have_the_covariance_of_the_scale() -> None:
    policy = Gaussian(Affine().spec)
    with torch.no_grad():
        policy.lower.copy_(torch.randn(6, 6))
        policy.mean.copy_(torch.linspace(-1, 1, 6))
        u = policy.sample(torch.zeros(200_000, 1, 1, 1), torch.Generator().manual_seed(0))
        scale = policy.scale()
    assert torch.allclose(u.mean(0), policy.mean.detach(), atol=0.01)
    assert torch.allclose(torch.cov(u.T), scale @ scale.T, rtol=0.02, atol=0.005)


def test_only_parameters_of_a_block_are_correlated() -> None:
    policy = Gaussian(SPEC)
    with torch.no_grad():
        policy.lower.fill_(1.0)
        u = policy.sample(torch.zeros(4000, 1, 1, 1), torch.Generator().manual_seed(0))
    correlation = torch.corrcoef(u.T)
    blocks = [p.block for p in SPEC]
    for i in range(len(SPEC)):
        for j in range(i):
            assert (float(correlation[i, j].abs()) > 0.2) == (blocks[i] == blocks[j])


def test_large_blocks_are_not_correlated() -> None:
    policy = Gaussian(PatchMix(image_size=36, patch_size=4).spec)  # 81 parameters in a block
    assert not bool(policy.mask.any())


def test_a_strength_at_its_maximum_has_no_variance() -> None:
    with pytest.warns(UserWarning, match=r"std=1000 is in units of u, where 1 is random augmentation") as caught:
        policy = Gaussian(Filter(blur=2.0, gamma=None, sharpness=None, noise=None).spec, std=1000.0)
    assert caught[0].filename == __file__
    assert float(policy.relative_variance()) < 0.01
