"""Random views: ranges, and transforms that require noise or partners."""

from __future__ import annotations

import pytest
import torch

from experiments.tasks import random_views
from hard_aug.policies import GroupBandit, Uniform
from hard_aug.transforms import Affine, Filter, PatchMix


def test_a_fraction_of_the_range() -> None:
    """A bright column moves by at most a quarter of the largest translation, uniformly."""
    transform = Affine(translation=0.25, rotation=None, scale=None, shear=None)
    images = torch.zeros(2000, 1, 1, 80)
    images[..., 40] = 1
    views = random_views(transform, images, torch.Generator().manual_seed(0), scale=0.25)
    columns = views[:, 0, 0]
    offsets = (columns * torch.arange(80)).sum(1) / columns.sum(1) - 40  # of the centre of mass, pixels
    assert float(offsets.abs().max()) <= 80 * 0.25 / 4 + 1e-3
    assert float(offsets.std()) == pytest.approx(5 / 3**0.5, rel=0.05)
    with pytest.raises(ValueError, match=r"scale=2\.0"):
        random_views(transform, images, torch.Generator(), scale=2.0)


def test_a_policy_draws_the_parameters() -> None:
    transform = Affine(translation=0.25, rotation=None, scale=None, shear=None)
    images = torch.rand(5, 1, 8, 8)
    policy = GroupBandit(transform.spec, groups=(1, 1))
    views = random_views(transform, images, torch.Generator().manual_seed(3), policy=policy)
    generator = torch.Generator().manual_seed(3)
    expected = transform(images, policy.sample(images, generator))
    assert torch.equal(views, expected)
    uniform = [
        random_views(transform, images, torch.Generator().manual_seed(3), policy=one)
        for one in (None, Uniform(transform.spec))
    ]
    assert torch.equal(*uniform)
    assert not torch.equal(views, uniform[0])


def test_transforms_that_require_noise_or_partners() -> None:
    images = torch.rand(6, 1, 8, 8)
    mixed = random_views(PatchMix(image_size=8, patch_size=4), images, torch.Generator().manual_seed(0))
    corners = {tuple(image[0, 0, :4].tolist()) for image in images}
    assert all(tuple(image[0, 0, :4].tolist()) in corners for image in mixed)
    noisy = random_views(Filter(blur=None, gamma=None, sharpness=None), images, torch.Generator().manual_seed(0))
    assert not torch.equal(noisy, images)
    assert 0 <= float(noisy.min()) <= float(noisy.max()) <= 1
