"""Random views of the augmenter's transform and of the task's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.methods.drawn_views import finished_transform, seeded_from
from experiments.tasks import Plain, random_views
from hard_aug.transforms import Affine

LABELS = torch.arange(8) % 5


def test_random_views_use_the_augmenter_s_transform_and_the_scale(
    build: Any, teacher: nn.Module, images: Tensor
) -> None:
    chosen = ("transform@augmenter.transform=rotation", "method.scale=0.25", "seed=4")
    method = build("random", teacher, teacher, *chosen)
    assert repr(method.transform) == repr(Affine(rotation=90.0))
    expected = random_views(Affine(rotation=90.0), images, torch.Generator().manual_seed(4), scale=0.25)
    assert torch.equal(method.second_view(images, LABELS), expected)


def test_the_oracle_uses_the_task_s_own_transform(build: Any, teacher: nn.Module) -> None:
    method = build("oracle", teacher, teacher)
    assert repr(method.transform) == repr(Affine(translation=2 / 12, rotation=None, scale=None, shear=None))
    assert method.scale == 1.0
    with pytest.raises(ValueError, match="method=oracle: this task has no known invariance"):
        build("oracle", teacher, teacher, task=Plain())


def test_a_transform_is_finished_with_the_training_images() -> None:
    context: Any = SimpleNamespace(splits=SimpleNamespace(train="the training images"))
    seen: list[Any] = []
    transform = Affine()
    assert finished_transform(transform, context) is transform

    def make(images: Any) -> Affine:
        seen.append(images)
        return transform

    assert finished_transform(make, context) is transform
    assert seen == ["the training images"]


def test_seeding_restores_the_global_generator() -> None:
    before = torch.get_rng_state()
    with seeded_from(torch.Generator().manual_seed(1)):
        first = torch.rand(3)
    assert torch.equal(before, torch.get_rng_state())
    with seeded_from(torch.Generator().manual_seed(1)):
        assert torch.equal(first, torch.rand(3))
