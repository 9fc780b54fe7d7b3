"""Random views of the augmenter's transform, of the task's own, and by torchvision's policies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.methods.drawn_views import finished_transform, seeded_from
from experiments.tasks import random_views
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
    method = build("oracle", teacher, teacher, "test_shift=2")
    assert repr(method.transform) == repr(Affine(translation=2 / 12, rotation=None, scale=None, shear=None))
    assert method.scale == 1.0
    with pytest.raises(ValueError, match="method=oracle: this task has no known invariance"):
        build("oracle", teacher, teacher, "task=plain")


def test_a_transform_is_finished_with_the_training_images() -> None:
    setup: Any = SimpleNamespace(splits=SimpleNamespace(train="the training images"))
    seen: list[Any] = []
    transform = Affine()
    assert finished_transform(transform, setup) is transform

    def make(images: Any) -> Affine:
        seen.append(images)
        return transform

    assert finished_transform(make, setup) is transform
    assert seen == ["the training images"]


def test_seeding_restores_the_global_generator() -> None:
    before = torch.get_rng_state()
    with seeded_from(torch.Generator().manual_seed(1)):
        first = torch.rand(3)
    assert torch.equal(before, torch.get_rng_state())
    with seeded_from(torch.Generator().manual_seed(1)):
        assert torch.equal(first, torch.rand(3))


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment", "augmix"])
def test_each_image_is_augmented_separately(build: Any, name: str, teacher: nn.Module, images: Tensor) -> None:
    same = images[:1].repeat(16, 1, 1, 1)
    views = build(name, teacher, teacher).second_view(same, LABELS.repeat(2))
    assert len({tuple(view.flatten().tolist()) for view in views}) > 4


def test_8_bit_images_are_reproduced_exactly_by_the_identity(build: Any, teacher: nn.Module) -> None:
    exact = torch.arange(144).reshape(1, 1, 12, 12) / 255
    method = build("randaugment", teacher, teacher, "method.transform.num_ops=1", "method.transform.magnitude=0")
    found = torch.cat([method.second_view(exact, LABELS[:1]) for _ in range(40)])
    assert any(torch.equal(view, exact[0]) for view in found)  # the identity is among the operations


def test_the_configured_settings(build: Any, teacher: nn.Module) -> None:
    found = build("augmix", teacher, teacher, "method.transform.severity=5").transform
    assert isinstance(found, v2.AugMix)
    assert (found.severity, found.mixture_width, found.all_ops) == (5, 3, False)
    flipped = "method.transform._target_=torchvision.transforms.v2.RandomHorizontalFlip"
    assert isinstance(build("trivialaugment", teacher, teacher, flipped).transform, v2.RandomHorizontalFlip)


def test_settings_outside_their_range_raise(build: Any, teacher: nn.Module) -> None:
    for magnitude in (31, -1):
        with pytest.raises(ValueError, match=f"magnitude={magnitude}: expected an integer from 0 to 30"):
            build("randaugment", teacher, teacher, f"method.transform.magnitude={magnitude}")
    with pytest.raises(InstantiationException, match="severity must be between"):
        build("augmix", teacher, teacher, "method.transform.severity=11")
