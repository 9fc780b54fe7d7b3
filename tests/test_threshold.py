"""Threshold: the switch between two bounds, its caps, and what a call does in each phase."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.objectives import ConfidenceGap, DecisionMaskedKL, Disagreement, JensenShannon, ResponseChange
from hard_aug.schedules import Phase, Threshold
from hard_aug.transforms import Affine

NEVER = 1e9


def test_the_switch() -> None:
    schedule = Threshold(low=2.0, high=4.0, max_rest=3, decay=0.0)
    phase = Phase()
    phase.see_clean(0.1, schedule)
    assert phase.ascended(0.39, schedule)
    assert not phase.ascended(0.41, schedule)
    assert phase.hard == 0.41
    phase.drew(0.25, schedule)
    assert not phase.ascending
    phase.drew(0.19, schedule)
    assert phase.ascending
    assert not phase.ascended(0.5, schedule)
    for _ in range(3):
        assert not phase.ascending
        phase.drew(0.5, schedule)
    assert phase.ascending  # it has rested long enough


def test_means_are_running_ones() -> None:
    schedule = Threshold(decay=0.75)
    phase = Phase()
    for value in (1.0, 2.0):
        phase.see_clean(value, schedule)
    assert phase.clean == 1.25
    other = Phase()
    other.load_state_dict(phase.state_dict())
    assert other == phase


def test_disagreements_that_are_not_finite_count_for_nothing() -> None:
    schedule = Threshold(low=2.0, high=4.0, max_rest=3, decay=0.5)
    phase, other = Phase(), Phase()
    for one in (phase, other):
        one.see_clean(0.1, schedule)
    for bad in (float("nan"), float("inf")):
        phase.see_clean(bad, schedule)
        assert phase.ascended(bad, schedule)
    assert phase == other
    assert not phase.ascended(0.5, schedule)
    phase.drew(float("nan"), schedule)
    assert (phase.hard, phase.rested, phase.ascending) == (0.5, 1, False)


def augmenter_of(teacher: nn.Module, student: nn.Module, schedule: Threshold, **parts: Any) -> HardAugmenter:
    return HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule, **parts)


def steps_of(augmenter: HardAugmenter) -> int:
    """How many ascents the policy has seen."""
    state = augmenter.state_dict()["optimizer"]["state"]
    return int(state[0]["step"]) if state else 0


def test_a_call_ascends_up_to_its_cap(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = augmenter_of(teacher, plain_student, Threshold(high=NEVER, max_steps=3))
    for call in range(1, 4):
        hard = augmenter(images)
        assert steps_of(augmenter) == 3 * call
        assert hard.loss().requires_grad
    augmenter.step()  # nothing is pending


def test_above_the_bound_calls_only_draw(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    schedule = Threshold(low=1e-9, high=1e-9, max_steps=5, max_rest=4)
    augmenter = augmenter_of(teacher, plain_student, schedule)
    counts = []
    for _ in range(7):
        first = augmenter(images)
        counts.append(steps_of(augmenter))
        assert first.images.shape == images.shape
    assert counts == [1, 1, 1, 1, 1, 2, 2]


def test_a_resumed_run_stands_where_it_stood(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    schedule = Threshold(low=1.01, high=1.02, max_rest=3)
    one, other = (augmenter_of(teacher, plain_student, schedule) for _ in range(2))
    for _ in range(4):
        one(images)
    other.load_state_dict(one.state_dict())
    for _ in range(5):
        assert torch.equal(one(images).images, other(images).images)
    assert steps_of(one) == steps_of(other)


def test_a_call_that_raises_leaves_the_phase(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = augmenter_of(teacher, plain_student, Threshold())
    augmenter(images)
    before = augmenter.state_dict()["phase"]
    with pytest.raises(ValueError, match="NaN"):
        augmenter(images * float("nan"))
    weight = plain_student[-1].weight.data.clone()
    plain_student[-1].weight.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the student returned NaN"):
        augmenter(images)
    plain_student[-1].weight.data.copy_(weight)
    assert augmenter.state_dict()["phase"] == before


@pytest.mark.parametrize("objective", [ConfidenceGap(), DecisionMaskedKL(), ResponseChange()])
def test_objectives_without_a_zero_are_refused(teacher: nn.Module, student: nn.Module, objective: Disagreement) -> None:
    words = rf"for {type(objective).__name__} mean nothing.*use schedule=Alternating\(\), or objective=KL\(\)"
    with pytest.raises(ValueError, match=words):
        augmenter_of(teacher, student, Threshold(), objective=objective)


def test_other_divergences_serve(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = augmenter_of(teacher, plain_student, Threshold(high=NEVER), objective=JensenShannon())
    assert float(augmenter(images).disagreement.mean()) > 0


@pytest.mark.parametrize(
    "arguments",
    [{"low": 0.0}, {"low": 5.0, "high": 4.0}, {"max_steps": 0}, {"max_rest": 0}, {"decay": 1.0}, {"every": 0}],
)
def test_settings_out_of_range(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        Threshold(**arguments)  # type: ignore[arg-type]  # the mistakes that are tested
