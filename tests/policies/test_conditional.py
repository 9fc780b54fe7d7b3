"""`Conditional`: a distribution for each image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hard_aug import HardAugmenter
from hard_aug.policies import Conditional
from hard_aug.transforms import Affine
from hard_aug.viz import PolicyHistory

SPEC = Affine(rotation=None, scale=None, shear=None).spec


def trained(images: Tensor, steps: int = 150) -> Conditional:
    """Train a policy to shift bright images right and dark ones left."""
    policy = Conditional(SPEC, channels=1)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        u = policy.sample(images, generator)
        target = torch.where(images.mean((1, 2, 3)) > 0.5, 1.0, -1.0)
        loss = (u[:, 0] - target).square().mean() - 0.05 * policy.relative_entropy(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy


def two_kinds() -> Tensor:
    return torch.cat((0.8 + 0.2 * torch.rand(32, 1, 20, 20), 0.2 * torch.rand(32, 1, 20, 20)))


def test_the_start_does_not_depend_on_the_image() -> None:
    policy = Conditional(SPEC, channels=3)
    images = torch.rand(4000, 3, 8, 8)
    u = policy.sample(images, torch.Generator().manual_seed(0)).detach()
    assert u.shape == (4000, 2)
    assert float(u.mean()) == pytest.approx(0, abs=0.02)
    assert float(u.std()) == pytest.approx(0.3, rel=0.03)
    assert torch.equal(u, policy.sample(1 - images, torch.Generator().manual_seed(0)))
    assert policy.sample(images[:0], torch.Generator()).shape == (0, 2)


@pytest.mark.slow
def test_it_learns_a_distribution_for_each_image() -> None:
    images = two_kinds()
    policy = trained(images)
    mean, std = (part.detach() for part in policy.distribution(images))
    assert float(mean[:32, 0].mean()) > 0.7
    assert float(mean[32:, 0].mean()) < -0.7
    assert float(std.min()) > 0.02


@pytest.mark.slow
def test_its_variance_is_that_of_all_images_and_its_entropy_the_mean_over_images() -> None:
    images = two_kinds()
    policy = trained(images)
    u = torch.cat([policy.sample(images, torch.Generator().manual_seed(seed)) for seed in range(60)]).detach()
    expected = 3 * torch.erf(u / 2**0.5).var(0)
    assert torch.allclose(policy.relative_variance(images), expected, rtol=0.05)
    mean, std = policy.distribution(images)
    ours = torch.distributions.Normal(mean, std)
    standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(std))
    entropy = -torch.distributions.kl_divergence(ours, standard).sum(1).mean()
    assert torch.allclose(policy.relative_entropy(images), entropy, rtol=1e-4)


def test_bad_images_and_settings() -> None:
    policy = Conditional(SPEC, channels=3)
    for images, words in ((None, "pass images"), (torch.rand(2, 1, 8, 8), r"\(transform\.spec, channels=1\)")):
        with pytest.raises(ValueError, match=words):
            policy.relative_entropy(images)
    with pytest.raises(ValueError, match="expected an integer >= 1"):
        Conditional(SPEC, channels=0)
    with pytest.raises(ValueError, match="has collapsed"):
        Conditional(SPEC, std=0.0)


def test_its_history_is_recorded_on_images(teacher: torch.nn.Module, student: torch.nn.Module, images: Tensor) -> None:
    transform = Affine(rotation=None, scale=None, shear=None)
    policy = Conditional(transform.spec, channels=1)
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=transform, policy=policy)
    before = [p.detach().clone() for p in policy.parameters()]
    for _ in range(3):
        augmenter(images)
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    history = PolicyHistory(transform.spec)
    history.record(0, augmenter, images)
    assert history.last()["translation_x"]["sd"] > 0
