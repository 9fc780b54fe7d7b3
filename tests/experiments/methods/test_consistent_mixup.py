"""Consistent mixup: both networks see the same mixed views."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

LABELS = torch.arange(8) % 5


@pytest.mark.parametrize("crop", [None, 0.3])
def test_both_networks_see_the_same_mixed_views(
    build: Any, teacher: nn.Module, plain_student: nn.Module, crop: float | None
) -> None:
    shown: dict[str, list[Tensor]] = {"teacher": [], "student": []}
    for name, model in (("teacher", teacher), ("student", plain_student)):
        model.register_forward_pre_hook(lambda module, inputs, seen=shown[name]: seen.append(inputs[0]))
    images = torch.rand(8, 1, 12, 12)
    build("consistent_mixup", teacher, plain_student, f"method.crop={crop or 'null'}").loss(images, LABELS)
    (seen,) = shown["student"]
    assert torch.equal(torch.cat(shown["teacher"]), seen)
    assert len(seen) == 16
    assert not torch.equal(*seen.split(8))
    if crop is None:  # a mix of each image with one other image
        for view, image in zip(seen[:8], images, strict=True):
            left = []
            for other in images:
                own, mixed = (image - other).reshape(-1, 1), (view - other).reshape(-1, 1)
                left.append((mixed - own * torch.linalg.lstsq(own, mixed).solution).abs().max())
            assert min(left) < 1e-4


def test_a_crop_keeps_a_fraction(build: Any, teacher: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"crop=0\.0: expected a fraction in \(0, 1\]"):
        build("consistent_mixup", teacher, teacher, "method.crop=0.0")
