"""A resumed augmenter continues bit-equal, and a state that does not fit changes nothing."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter
from hard_aug.objectives import Constraint
from hard_aug.policies import Gaussian, Generator
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine


def build(teacher: nn.Module, student: nn.Module, schedule: Any, policy: Any, seed: int = 0) -> HardAugmenter:
    transform = Affine()
    return HardAugmenter(
        teacher=teacher,
        student=student,
        transform=transform,
        policy=policy(transform.spec),
        schedule=schedule,
        invariance=Constraint(0.05),
        exploration=Exploration(min_variance=0.6),
        seed=seed,
    )


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]  # it is what was saved


@pytest.mark.parametrize(
    "schedule", [Alternating(every=2), Alternating(every=3, fraction=0.5), Threshold(low=1.01, high=1.02)]
)
@pytest.mark.parametrize("policy", [Gaussian, Generator])
def test_resume_is_bit_equal(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any, policy: Any
) -> None:
    first = build(teacher, plain_student, schedule, policy)
    for _ in range(5):
        first(images)
    second = build(teacher, plain_student, schedule, policy, seed=99)
    second.load_state_dict(through_a_file(first.state_dict()))
    for _ in range(4):
        one, two = first(images), second(images)
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.u, two.u)
    assert first.uniform_fraction == second.uniform_fraction > 0
    assert float(first.invariance.multiplier) == float(second.invariance.multiplier)


def test_a_state_is_a_copy(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = build(teacher, plain_student, Alternating(), Gaussian)
    augmenter(images)
    state = augmenter.state_dict()
    kept = copy.deepcopy(state)
    for _ in range(3):
        augmenter(images)
    assert all(torch.equal(state["policy"][key], value) for key, value in kept["policy"].items())
    assert torch.equal(state["generator"], kept["generator"])
    assert torch.equal(state["uniform_fraction"], kept["uniform_fraction"])


@pytest.mark.parametrize("damage", ["missing", "unknown", "policy", "form"])
def test_a_state_that_does_not_fit_changes_nothing(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, damage: str
) -> None:
    augmenter = build(teacher, plain_student, Alternating(), Gaussian)
    twin = build(teacher, plain_student, Alternating(), Gaussian)
    for one in (augmenter, twin):
        one(images)
    state = build(teacher, plain_student, Alternating(), Gaussian, seed=5).state_dict()
    if damage == "missing":
        del state["uniform_fraction"]
    elif damage == "unknown":
        state["surprise"] = 1
    elif damage == "policy":
        state["policy"]["surprise"] = torch.zeros(1)
    else:
        state["policy"]["mean"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"state dict|policy"):
        augmenter.load_state_dict(state)
    assert torch.equal(augmenter(images).images, twin(images).images)


def test_the_keys_of_a_state(teacher: nn.Module, plain_student: nn.Module) -> None:
    """The networks are not in it, and neither are settings."""
    state = build(teacher, plain_student, Threshold(), Gaussian).state_dict()
    assert set(state) == {
        "policy", "optimizer", "invariance", "uniform_fraction", "dropped_steps", "calls", "schedule", "calibration",
        "generator",
    }  # fmt: skip
    assert state["calibration"] == {"images": None, "labels": None, "result": None}
    assert state["schedule"] == {"updating": True, "clean": None, "hard": None, "idle_calls": 0}
    assert build(teacher, plain_student, Alternating(), Gaussian).state_dict()["schedule"] == {}
