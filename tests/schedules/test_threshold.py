"""`Threshold`: the switch between two bounds, its caps, and what a call does on either side of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.objectives import KL, Disagreement, JensenShannon, ReverseKL
from hard_aug.schedules import Threshold
from hard_aug.schedules.threshold import ThresholdState
from hard_aug.transforms import Affine

NEVER = 1e9


def test_the_switch() -> None:
    schedule = Threshold(low=2.0, high=4.0, max_idle_calls=3, decay=0.0)
    state = ThresholdState()
    state.record_clean(0.1, schedule)
    assert state.record_update(0.39, schedule)
    assert not state.record_update(0.41, schedule)
    assert state.hard == 0.41
    state.record_hard(0.25, schedule)
    assert not state.updating
    state.record_hard(0.19, schedule)
    assert state.updating
    assert not state.record_update(0.5, schedule)
    for _ in range(3):
        assert not state.updating
        state.record_hard(0.5, schedule)
    assert state.updating  # after max_idle_calls


def test_the_means_are_running_means() -> None:
    schedule = Threshold(decay=0.75)
    state = ThresholdState()
    for value in (1.0, 2.0):
        state.record_clean(value, schedule)
    assert state.clean == 1.25
    assert ThresholdState(**asdict(state)) == state


def test_disagreements_that_are_not_finite_are_ignored() -> None:
    schedule = Threshold(low=2.0, high=4.0, max_idle_calls=3, decay=0.5)
    state, other = ThresholdState(), ThresholdState()
    for one in (state, other):
        one.record_clean(0.1, schedule)
    for bad in (float("nan"), float("inf")):
        state.record_clean(bad, schedule)
        assert state.record_update(bad, schedule)
    assert state == other
    assert not state.record_update(0.5, schedule)
    state.record_hard(float("nan"), schedule)
    assert (state.hard, state.idle_calls, state.updating) == (0.5, 1, False)


def augmenter_of(teacher: nn.Module, student: nn.Module, schedule: Threshold, **parts: Any) -> HardAugmenter:
    return HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule, **parts)


def updates_of(augmenter: HardAugmenter) -> int:
    """Return the number of policy updates so far."""
    state = augmenter.state_dict()["optimizer"]["state"]
    return int(state[0]["step"]) if state else 0


def test_a_call_updates_up_to_its_cap(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = augmenter_of(teacher, plain_student, Threshold(high=NEVER, max_steps=3))
    for call in range(1, 4):
        hard = augmenter(images)
        assert updates_of(augmenter) == 3 * call
        assert hard.loss().requires_grad


def test_calls_above_the_bound_only_sample(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    schedule = Threshold(low=1e-9, high=1e-9, max_steps=5, max_idle_calls=4)
    augmenter = augmenter_of(teacher, plain_student, schedule)
    counts = []
    for _ in range(7):
        hard = augmenter(images)
        counts.append(updates_of(augmenter))
        assert hard.images.shape == images.shape
    assert counts == [1, 1, 1, 1, 1, 2, 2]


def test_a_resumed_run_continues_where_it_was(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    schedule = Threshold(low=1.01, high=1.02, max_idle_calls=3)
    one, other = (augmenter_of(teacher, plain_student, schedule) for _ in range(2))
    for _ in range(4):
        one(images)
    other.load_state_dict(one.state_dict())
    for _ in range(5):
        assert torch.equal(one(images).images, other(images).images)
    assert updates_of(one) == updates_of(other)


def test_a_call_that_raises_restores_the_state(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = augmenter_of(teacher, plain_student, Threshold())
    augmenter(images)
    before = augmenter.state_dict()["schedule"]
    assert before["clean"] > 0
    with pytest.raises(ValueError, match="NaN"):
        augmenter(images * float("nan"))
    weight = plain_student[-1].weight.data.clone()
    plain_student[-1].weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the student returned NaN"):
        augmenter(images)
    plain_student[-1].weight.data.copy_(weight)
    assert augmenter.state_dict()["schedule"] == before


@pytest.mark.parametrize("objective", [KL(3.0), ReverseKL(), JensenShannon()])
def test_the_bounds_are_multiples_of_the_objective(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, objective: Disagreement
) -> None:
    """The state holds the objective's mean on the clean images, and on the hard ones of an idle call."""
    schedule = Threshold(low=1e-9, high=1e-9, max_steps=1, decay=0.0)
    augmenter = augmenter_of(teacher, plain_student, schedule, objective=objective)
    with torch.no_grad():
        clean = objective(teacher_logits=teacher(images), student_logits=plain_student(images)).mean()
    augmenter(images)
    assert augmenter.state_dict()["schedule"]["updating"] is False
    hard = augmenter(images)
    state = augmenter.state_dict()["schedule"]
    assert state["clean"] == pytest.approx(float(clean), rel=1e-5)
    assert state["hard"] == pytest.approx(float(hard.disagreement.mean()), rel=1e-5)
    assert state["idle_calls"] == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"low": 0.0}, r"low=0\.0, high=4\.0: expected 0 < low <= high"),
        ({"low": 5.0, "high": 4.0}, r"low=5\.0, high=4\.0"),
        ({"high": float("inf")}, "high=inf"),
        ({"max_steps": 0}, "max_steps=0: expected an integer >= 1"),
        ({"max_idle_calls": 0}, "max_idle_calls=0: expected an integer >= 1"),
        ({"decay": 1.0}, r"decay=1\.0: expected a number in \[0, 1\)"),
        ({"every": 0}, "every=0: expected an integer >= 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Threshold(**settings)
