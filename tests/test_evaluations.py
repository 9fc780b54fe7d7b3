"""What an augmenter's ascents and searches will cost, said before, is what they are found to have cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from experiments.evaluations import of_augmenter, planned_of_augmenter
from hard_aug import HardAugmenter
from hard_aug.objectives import KL, Disagreement, ResponseChange
from hard_aug.policies import Gaussian, Policy, Search
from hard_aug.schedules import Alternating, Joint, Schedule, Threshold
from hard_aug.transforms import Affine

SPEC = Affine().spec


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize(
    ("policy", "schedule", "objective", "expected"),
    [
        (lambda: Gaussian(SPEC), Joint(fraction=0.5, every=3), KL(), 0.5 * 2 / 3),
        (lambda: Gaussian(SPEC), Joint(fraction=1.0, every=1, teacher_gradient=False), KL(), 0.0),
        (lambda: Gaussian(SPEC), Alternating(fraction=0.5, every=2, steps=3), KL(), 3 * 0.5 * 4 / 2),
        (lambda: Gaussian(SPEC), Alternating(every=3), ResponseChange(), (4 + 1) / 3),
        (lambda: Search(SPEC, candidates=3), Alternating(), KL(), 6.0),
        (lambda: Search(SPEC, candidates=2, steps=2), Alternating(every=2), KL(), (4 + 2 * 4 + 2) / 2),
        (lambda: Search(SPEC, candidates=4, draws=Gaussian(SPEC)), Alternating(fraction=0.5), KL(), 0.5 * (8 + 4)),
    ],
)
def test_the_plan_is_what_is_spent(
    teacher: nn.Module,
    plain_student: nn.Module,
    policy: Callable[[], Policy],
    schedule: Schedule,
    objective: Disagreement,
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
    assert planned_of_augmenter(augmenter) == pytest.approx(expected)
    steps = 2 * schedule.every
    for _ in range(steps):
        for part in torch.rand(8, 1, 12, 12).chunk(micro_batches):
            (augmenter(part).loss() / micro_batches).backward()
        augmenter.step()
    assert of_augmenter(augmenter, 8 * steps) == pytest.approx(expected * 8 * steps)


def test_what_decides_as_it_goes_has_no_plan(teacher: nn.Module, plain_student: nn.Module) -> None:
    augmenter = HardAugmenter(
        teacher=teacher, student=plain_student, transform=Affine(), policy=Gaussian(SPEC), schedule=Threshold()
    )
    with pytest.raises(ValueError, match=r"threshold will cost is not known before; take budget=steps"):
        planned_of_augmenter(augmenter)
