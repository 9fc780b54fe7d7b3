"""When an update is captured and what is copied, with a recorder that runs the update where a graph would replay it.

The CUDA graph itself is tested in `tests/setups/test_gpu.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.inner_loop.cuda_graph import WARM_UP, GraphedUpdate
from hard_aug.objectives import ConfidenceGap, KeepRate, ResponseChange
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine, Compose, Filter, PatchMix


class Recorder:
    """Counts captures and replays; a replay runs the function again, on the current values of its tensors."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, function: Callable[[], Tensor], generator: torch.Generator) -> Callable[[], Tensor]:
        self.recorded += 1

        def replay() -> Tensor:
            self.replayed += 1
            return function()

        return replay


def pair(teacher: nn.Module, student: nn.Module, **settings: Any) -> tuple[HardAugmenter, HardAugmenter, Recorder]:
    """Build two equal augmenters, of which the second replays its policy updates."""
    settings.setdefault("schedule", Alternating())
    plain, captured = (HardAugmenter(teacher=teacher, student=student, **copy.deepcopy(settings)) for _ in range(2))
    recorder = Recorder()
    captured._adversary.update = GraphedUpdate(captured._adversary, record=recorder)
    return plain, captured, recorder


SETTINGS: dict[str, Any] = {
    "alternating": {"transform": Affine(), "schedule": Alternating(fraction=0.5)},
    "threshold": {"transform": Affine(), "schedule": Threshold(max_steps=2)},
    "keep rate": {"transform": Affine(), "invariance": KeepRate()},
    "labels": {"transform": Affine(), "objective": ConfidenceGap()},
    "student's reference": {"transform": Affine(), "objective": ResponseChange()},
    "mix and noise": {"transform": Compose(PatchMix(image_size=12, patch_size=4), Filter(blur=None))},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_replayed_updates_are_the_eager_updates(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, name: str
) -> None:
    plain, captured, recorder = pair(teacher, plain_student, **SETTINGS[name])
    for step in range(WARM_UP + 4):
        batch = images.roll(step, 0) * (1 - 0.05 * step)
        labels = torch.arange(8).roll(step) % 5
        assert torch.equal(plain(batch, labels).images, captured(batch.clone(), labels.clone()).images)
    assert recorder.recorded == 1
    assert recorder.replayed >= 3
    assert captured._adversary.update.is_recorded
    for one, other in zip(plain.policy.parameters(), captured.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_smaller_batch_runs_eagerly(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    plain, captured, recorder = pair(teacher, plain_student, transform=Affine(), schedule=Alternating(steps=2))
    for _ in range(2 * WARM_UP):
        for size in (8, 8, 8, 3):
            assert torch.equal(plain(images[:size]).images, captured(images[:size]).images)
    assert recorder.recorded == 1
    assert recorder.replayed == 2 * (6 * WARM_UP - WARM_UP // 2)


def test_occasional_forms_run_eagerly(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    _, captured, recorder = pair(teacher, plain_student, transform=Affine())
    turned = images.clone().transpose(2, 3)  # other strides
    for call in range(8 * WARM_UP):
        captured(images if call % 3 else turned)
    assert recorder.recorded == 0
    for call in range(8 * WARM_UP):
        captured(images if call < WARM_UP + 1 or call % 3 else turned)
    assert recorder.recorded == 1


def test_a_new_form_that_persists_is_captured_anew(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    _, captured, recorder = pair(teacher, plain_student, transform=Affine())
    for size in (4, 8):
        for _ in range(WARM_UP + 2):
            captured(images[:size])
    assert recorder.recorded == 2


@pytest.mark.parametrize("what", ["weights", "optimizer"])
def test_moved_tensors_are_captured_anew(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, what: str
) -> None:
    plain, captured, recorder = pair(teacher, plain_student, transform=Affine())
    for _ in range(WARM_UP + 2):
        plain(images), captured(images)
    if what == "weights":
        plain_student[1].weight.data = plain_student[1].weight.data * 0.9
    else:
        captured.load_state_dict(copy.deepcopy(captured.state_dict()))
    for _ in range(WARM_UP + 2):
        assert torch.equal(plain(images).images, captured(images).images)
    assert recorder.recorded == 2


def test_weights_updated_in_place_are_used(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    plain, captured, recorder = pair(teacher, plain_student, transform=Affine())
    optimizer = torch.optim.SGD(plain_student.parameters(), lr=0.1)
    for _ in range(WARM_UP + 4):
        plain(images)
        optimizer.zero_grad()
        captured(images).loss().backward()
        optimizer.step()
    assert recorder.recorded == 1
    assert torch.equal(plain(images).images, captured(images).images)


def test_an_update_that_cannot_be_captured_changes_nothing(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    _, captured, _ = pair(teacher, plain_student, transform=Affine())

    def refuse(function: Callable[[], Tensor], generator: torch.Generator) -> Callable[[], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    captured._adversary.update = GraphedUpdate(captured._adversary, record=refuse)
    for _ in range(WARM_UP):
        captured(images)
    before = copy.deepcopy(captured.state_dict())
    with pytest.raises(RuntimeError, match="not permitted"):
        captured(images)
    after = captured.state_dict()
    assert torch.equal(before["generator"], after["generator"])
    assert all(torch.equal(before["policy"][name], value) for name, value in after["policy"].items())
