"""What is recorded when, and what is copied in: with a recorder that runs the ascent again where a graph would replay.

The CUDA graph itself is tested in `test_gpu.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.captured import WARM_UP, CapturedAscent
from hard_aug.objectives import ConfidenceGap, ResponseChange
from hard_aug.policies import Search
from hard_aug.schedules import Alternating, Joint, Threshold
from hard_aug.transforms import Affine, Compose, Filter, PatchMix


class Recorder:
    """Counts; what it gives back runs the function again, on whatever its tensors hold then."""

    def __init__(self) -> None:
        self.recorded = self.played = 0

    def __call__(self, function: Callable[[], Tensor], generator: torch.Generator) -> Callable[[], Tensor]:
        self.recorded += 1

        def replay() -> Tensor:
            self.played += 1
            return function()

        return replay


def pair(teacher: nn.Module, student: nn.Module, **settings: Any) -> tuple[HardAugmenter, HardAugmenter, Recorder]:
    """Two that are alike, of which the second plays its ascents back."""
    plain, captured = (HardAugmenter(teacher=teacher, student=student, **copy.deepcopy(settings)) for _ in range(2))
    recorder = Recorder()
    captured._captured = CapturedAscent(captured._adversary, record=recorder)
    return plain, captured, recorder


SETTINGS: dict[str, Any] = {
    "alternating": {"transform": Affine(), "schedule": Alternating(fraction=0.5)},
    "threshold": {"transform": Affine(), "schedule": Threshold(max_steps=2)},
    "labels": {"transform": Affine(), "objective": ConfidenceGap()},
    "student's reference": {"transform": Affine(), "objective": ResponseChange()},
    "mix and noise": {"transform": Compose(PatchMix(image_size=12, patch_size=4), Filter(blur=None))},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_played_back_is_what_would_have_been_done(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, name: str
) -> None:
    plain, captured, recorder = pair(teacher, plain_student, **SETTINGS[name])
    for step in range(WARM_UP + 4):
        batch = images.roll(step, 0) * (1 - 0.05 * step)
        labels = torch.arange(8).roll(step) % 5
        assert torch.equal(plain(batch, labels).images, captured(batch.clone(), labels.clone()).images)
    assert recorder.recorded == 1
    assert recorder.played >= 3
    for one, other in zip(plain.policy.parameters(), captured.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_smaller_batch_runs_as_it_is(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    plain, captured, recorder = pair(teacher, plain_student, transform=Affine(), schedule=Alternating(steps=2))
    for _ in range(2 * WARM_UP):
        for size in (8, 8, 8, 3):
            assert torch.equal(plain(images[:size]).images, captured(images[:size]).images)
    assert recorder.recorded == 1
    assert recorder.played == 2 * (6 * WARM_UP - WARM_UP // 2)


def test_forms_that_come_now_and_then_run_as_they_are(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    _, captured, recorder = pair(teacher, plain_student, transform=Affine())
    turned = images.clone().transpose(2, 3)  # other strides
    for call in range(8 * WARM_UP):
        captured(images if call % 3 else turned)
    assert recorder.recorded == 0
    for call in range(8 * WARM_UP):
        captured(images if call < WARM_UP + 1 or call % 3 else turned)
    assert recorder.recorded == 1


def test_a_form_that_stays_is_recorded_anew(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    _, captured, recorder = pair(teacher, plain_student, transform=Affine())
    for size in (4, 8):
        for _ in range(WARM_UP + 2):
            captured(images[:size])
    assert recorder.recorded == 2


@pytest.mark.parametrize("what", ["weights", "optimizer"])
def test_what_has_moved_is_recorded_anew(
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


def test_weights_that_learn_in_place_are_seen(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    plain, captured, recorder = pair(teacher, plain_student, transform=Affine())
    optimizer = torch.optim.SGD(plain_student.parameters(), lr=0.1)
    for _ in range(WARM_UP + 4):
        plain(images)
        optimizer.zero_grad()
        captured(images).loss().backward()
        optimizer.step()
    assert recorder.recorded == 1
    assert torch.equal(plain(images).images, captured(images).images)


def test_an_ascent_that_can_not_be_recorded_leaves_all_as_it_was(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    _, captured, _ = pair(teacher, plain_student, transform=Affine())

    def refuse(function: Callable[[], Tensor], generator: torch.Generator) -> Callable[[], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    captured._captured = CapturedAscent(captured._adversary, record=refuse)
    for _ in range(WARM_UP):
        captured(images)
    before = copy.deepcopy(captured.state_dict())
    with pytest.raises(RuntimeError, match="not permitted"):
        captured(images)
    after = captured.state_dict()
    assert torch.equal(before["generator"], after["generator"])
    assert all(torch.equal(before["policy"][name], value) for name, value in after["policy"].items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "wants the networks on a CUDA device, and they are on cpu"),
    ],
)
def test_refused_at_construction(
    teacher: nn.Module, plain_student: nn.Module, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), capture=True, **settings)


def test_parts_that_have_no_inner_loop() -> None:
    from hard_aug.compatibility import check_capture
    from hard_aug.policies import Gaussian
    from hard_aug.processes import Processes

    cuda, alone, together = torch.device("cuda"), Processes(torch.device("cpu")), Processes(torch.device("cpu"))
    together.count = 2
    gaussian, search = Gaussian(Affine().spec), Search(Affine().spec)
    check_capture(cuda, schedule=Alternating(), policy=gaussian, processes=alone)
    for schedule, policy, processes, message in (
        (Joint(), gaussian, alone, "Joint ascends by the caller's own backward"),
        (Alternating(), search, alone, "this Search learns nothing"),
        (Alternating(), gaussian, together, "is for one process"),
    ):
        with pytest.raises(ValueError, match=message):
            check_capture(cuda, schedule=schedule, policy=policy, processes=processes)
