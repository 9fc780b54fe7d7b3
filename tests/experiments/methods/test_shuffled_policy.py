"""The control policy that sees other images."""

from __future__ import annotations

import torch

from experiments.methods.shuffled_policy import Shuffled
from hard_aug.transforms import Affine
from hard_aug.utils.rng import derangement


def test_it_predicts_from_other_images() -> None:
    images = torch.linspace(0, 1, 16)[:, None, None, None].expand(16, 1, 8, 8)
    policy = Shuffled(Affine().spec, channels=1)
    torch.nn.init.normal_(policy.network[-1].weight)  # type: ignore[arg-type]  # the last layer is linear
    found = policy.sample(images, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    order = derangement(16, generator)
    mean, std = policy.distribution(images[order])
    assert torch.allclose(found, mean + std * torch.randn(16, 6, generator=generator))
