"""The way from a call of the augmenter to the kernel that warps the images is short."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import hard_aug
from hard_aug import HardAugmenter
from hard_aug.schedules import Alternating
from hard_aug.transforms import Affine, Color, Compose
from tests.helpers.kernels import DEVICE, needs_triton

LIBRARY = Path(hard_aug.__file__).parent
#: Function calls inside the library from `HardAugmenter.__call__` to the launch, both counted.
MAX_DEPTH = 12


@needs_triton
def test_a_policy_update_reaches_its_kernel_in_few_calls(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hard_aug.ops.warp_color import triton as kernels

    launched: list[list[str]] = []

    class Recorder:
        """Records the functions of the library that lead to a launch, from the outermost on."""

        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: Any) -> Any:
            frames = [frame for frame in inspect.stack() if Path(frame.filename).is_relative_to(LIBRARY)]
            launched.append([f"{Path(f.filename).relative_to(LIBRARY)}:{f.function}" for f in reversed(frames)])
            return self.kernel[grid]

    monkeypatch.setattr(kernels, "_forward", Recorder(kernels._forward))
    transform = Compose(Affine(), Color(saturation=None, hue=None))
    augmenter = HardAugmenter(
        teacher=teacher.to(DEVICE),
        student=plain_student.to(DEVICE),
        transform=transform,
        schedule=Alternating(),
        backend="triton",
    )
    augmenter(images.to(DEVICE))
    assert len(launched) == 2  # of the update, and of the hard images
    update, hard = launched
    for calls in (update, hard):
        assert calls[0] == "augmenter.py:__call__"
        assert calls[-1] == "ops/warp_color/launch.py:forward"
    assert any(call.endswith(":update_policy") for call in update)
    assert len(update) + 1 <= MAX_DEPTH, update  # and the launch itself
    assert len(hard) < len(update)
