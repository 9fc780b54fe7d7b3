"""`Schedule`: which calls and images are used, and how a new schedule is defined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.inner_loop.adversary import Adversary
from hard_aug.inner_loop.clean_batch import CleanBatch
from hard_aug.objectives import ConfidenceGap, Reference
from hard_aug.policies import Uniform
from hard_aug.schedules import Alternating, Schedule, ScheduleRunner
from hard_aug.transforms import Affine


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_min=True))
def test_a_fraction_has_at_least_one_image_and_at_most_all(batch: int, fraction: float) -> None:
    rows = Alternating(fraction=fraction).rows(batch)
    assert min(1, batch) <= rows <= batch
    assert abs(rows - fraction * batch) <= 0.5 or rows == 1


@given(st.integers(1, 50))
def test_every_nth_call_is_due_from_the_first_on(every: int) -> None:
    due = [Alternating(every=every).is_due(call) for call in range(100)]
    assert due[0]
    assert sum(due) == -(-100 // every)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every": 0}, "every=0: expected an integer >= 1"),
        ({"every": -3}, "every=-3"),
        ({"every": 1.5}, "every=1.5"),
        ({"every": float("nan")}, "every=nan"),
        ({"fraction": 0.0}, r"fraction=0\.0: expected a fraction in \(0, 1\]"),
        ({"fraction": 1.5}, "fraction=1.5"),
        ({"fraction": -0.5}, "fraction=-0.5"),
        ({"fraction": float("nan")}, "fraction=nan"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Alternating(**settings)


def test_a_schedule_is_immutable_and_compares_by_its_settings() -> None:
    schedule = Alternating(every=2)
    with pytest.raises(AttributeError):
        schedule.every = 3  # type: ignore[misc]  # wrong on purpose
    assert schedule == Alternating(every=2) != Alternating()


def test_the_base_class_is_abstract() -> None:
    with pytest.raises(TypeError, match="make_runner"):
        Schedule()  # type: ignore[abstract]  # wrong on purpose


@dataclass(frozen=True, slots=True)
class WhileEasy(Schedule):
    """Updates the policy once in each call whose predecessor's hard images had a disagreement below `limit`."""

    limit: float = 1.0

    def make_runner(self, adversary: Adversary) -> ScheduleRunner:
        return WhileEasyRunner(self, adversary)


class WhileEasyRunner(ScheduleRunner):
    def __init__(self, schedule: WhileEasy, adversary: Adversary) -> None:
        self.schedule, self.adversary, self.last = schedule, adversary, 0.0

    def before_sample(self, clean: CleanBatch) -> None:
        if self.last < self.schedule.limit:
            self.adversary.update(clean)

    def after_sample(self, clean: CleanBatch, hard_images: Tensor, reference: Reference) -> None:
        self.last = float(self.adversary.score(hard_images, reference).disagreement.mean())

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last = state["last"]


@pytest.mark.parametrize(("limit", "updates"), [(0.0, 0), (1e-9, 1), (1e9, 4)])
def test_a_new_schedule_needs_nothing_from_the_library(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, limit: float, updates: int
) -> None:
    augmenter, twin = (
        HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), schedule=WhileEasy(limit=limit))
        for _ in range(2)
    )
    for _ in range(4):
        hard = augmenter(images)
    state = augmenter.state_dict()
    moments = state["optimizer"]["state"]
    assert (int(moments[0]["step"]) if moments else 0) == updates
    assert state["schedule"]["last"] == pytest.approx(float(hard.disagreement.mean()), rel=1e-5)
    twin.load_state_dict(state)
    assert torch.equal(twin(images).images, augmenter(images).images)
    assert "schedule=WhileEasy(every=1, fraction=1.0, limit=" in repr(augmenter)


def test_a_call_that_raises_restores_the_runner(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), schedule=WhileEasy())
    augmenter(images)
    before = augmenter.state_dict()["schedule"]
    bias = plain_student[-1].bias.data.clone()
    plain_student[-1].bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the student returned NaN"):
        augmenter(images)
    plain_student[-1].bias.data.copy_(bias)
    assert augmenter.state_dict()["schedule"] == before


@dataclass(frozen=True, slots=True)
class Demanding(WhileEasy):
    """A schedule with the requirements of `Threshold`."""

    requires_divergence = True
    requires_learned_policy = True


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"objective": ConfidenceGap()}, "Demanding compares with multiples of the objective"),
        ({"policy": Uniform(Affine().spec)}, "Demanding updates a policy's parameters"),
    ],
)
def test_requirements_of_a_new_schedule_are_checked(
    teacher: nn.Module, student: nn.Module, parts: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=Demanding(), **parts)
