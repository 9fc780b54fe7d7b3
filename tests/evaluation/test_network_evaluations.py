"""The planned cost of policy updates and searches is what is counted afterwards, and what takes place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hard_aug import HardAugmenter
from hard_aug.calibration.first_calls import IMAGES
from hard_aug.evaluation import augmenter_evaluations, count_policy_updates, planned_augmenter_evaluations
from hard_aug.objectives import KL, Disagreement, ResponseChange
from hard_aug.policies import Gaussian, GroupBandit, Policy, Search, Uniform
from hard_aug.schedules import Alternating, Schedule, Threshold
from hard_aug.transforms import Affine

SPEC = Affine().spec


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize(
    ("policy", "schedule", "objective", "updates", "expected"),
    [
        (lambda: Gaussian(SPEC), Alternating(fraction=0.5, every=2, steps=3), KL(), 3 / 2, 3 * 0.5 * 4 / 2),
        (lambda: Gaussian(SPEC), Alternating(every=3), ResponseChange(), 1 / 3, (4 + 1) / 3),
        (lambda: Search(SPEC, candidates=3), Alternating(), KL(), 0, 6.0),
        (lambda: Search(SPEC, candidates=2, steps=2), Alternating(every=2), KL(), 0, (4 + 2 * 4 + 2) / 2),
        (
            lambda: Search(SPEC, candidates=4, proposal=Gaussian(SPEC)),
            Alternating(fraction=0.5),
            KL(),
            1,
            0.5 * (8 + 4),
        ),
        (lambda: GroupBandit(SPEC), Alternating(fraction=0.5, every=2), KL(), 1 / 2, 0.5 * 3 / 2),
        (lambda: Uniform(SPEC), Alternating(), KL(), 0, 0.0),
    ],
)
def test_the_plan_is_what_is_spent(
    teacher: nn.Module,
    plain_student: nn.Module,
    policy: Callable[[], Policy],
    schedule: Schedule,
    objective: Disagreement,
    updates: float,
    expected: float,
    micro_batches: int,
) -> None:
    augmenter = HardAugmenter(
        teacher=teacher,
        student=plain_student,
        transform=Affine(),
        policy=policy(),
        objective=objective,
        schedule=schedule,
    )
    assert augmenter_evaluations(augmenter, 0) == 0
    assert planned_augmenter_evaluations(augmenter) == pytest.approx(expected)
    steps = 2 * schedule.every
    for _ in range(steps):
        for part in torch.rand(8, 1, 12, 12).chunk(micro_batches):
            (augmenter(part).loss() / micro_batches).backward()
    assert augmenter_evaluations(augmenter, 8 * steps) == pytest.approx(expected * 8 * steps)
    assert count_policy_updates(augmenter) == updates * steps * micro_batches


def test_a_calibration_counts_once_it_has_taken_place(teacher: nn.Module, plain_student: nn.Module) -> None:
    parts: dict[str, Any] = {"student": plain_student, "transform": Affine(), "policy": GroupBandit(SPEC)}
    augmenter = HardAugmenter(teacher=teacher, calibration=True, schedule=Alternating(), **parts)
    batch = torch.rand(IMAGES // 2, 1, 12, 12)
    before = planned_augmenter_evaluations(augmenter)
    augmenter(batch)
    assert augmenter.calibration is None
    early = augmenter_evaluations(augmenter, len(batch))
    augmenter(batch)
    assert augmenter.calibration is not None
    later = augmenter_evaluations(augmenter, 2 * len(batch))
    assert augmenter.calibration.evaluations > 10 * IMAGES
    assert later == 2 * early + augmenter.calibration.evaluations
    assert planned_augmenter_evaluations(augmenter) == before  # a plan is for long trainings
    given = HardAugmenter(teacher=teacher, calibration=augmenter.calibration, schedule=Alternating(), **parts)
    assert augmenter_evaluations(given, 0) == 0
    given(batch)
    assert augmenter_evaluations(given, len(batch)) == early + augmenter.calibration.evaluations


def test_a_threshold_has_no_plan(teacher: nn.Module, plain_student: nn.Module) -> None:
    augmenter = HardAugmenter(
        teacher=teacher, student=plain_student, transform=Affine(), policy=Gaussian(SPEC), schedule=Threshold()
    )
    with pytest.raises(ValueError, match="Threshold is not known in advance"):
        planned_augmenter_evaluations(augmenter)
    images = torch.rand(8, 1, 12, 12)
    augmenter(images)
    updates = count_policy_updates(augmenter)
    assert updates > 0
    assert augmenter_evaluations(augmenter, 8) == 8 * (4 * updates + 1)  # and the student on the clean images
