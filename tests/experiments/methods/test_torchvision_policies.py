"""Views by torchvision's policies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from torch import Tensor, nn
from torchvision.transforms import v2

LABELS = torch.arange(8) % 5


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
