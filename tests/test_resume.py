"""A resumed augmenter goes on bit-equal, and a state that does not fit changes nothing."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.objectives import Constraint
from hard_aug.policies import Gaussian, Generator
from hard_aug.schedules import Alternating, Joint
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
        spread_floor=0.6,
        seed=seed,
    )


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]  # it is what was saved


@pytest.mark.parametrize("schedule", [Alternating(every=2), Joint(), Joint(every=3, fraction=0.5)])
@pytest.mark.parametrize("policy", [Gaussian, Generator])
@pytest.mark.parametrize("pending", [False, True])
def test_resume_is_bit_equal(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any, policy: Any, pending: bool
) -> None:
    first = build(teacher, plain_student, schedule, policy)
    for _ in range(5):
        first(images).loss().backward()
        first.step()
    if pending:  # a micro-batch had its backward, the step is still to come
        first(images).loss().backward()
    second = build(teacher, plain_student, schedule, policy, seed=99)
    second.load_state_dict(through_a_file(first.state_dict()))
    for _ in range(4):
        first.step()
        second.step()
        one, two = first(images), second(images)
        assert torch.equal(one.images, two.images)
        assert torch.equal(one.u, two.u)
        one.loss().backward()
        two.loss().backward()
    assert first.uniform_share == second.uniform_share > 0
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
    assert torch.equal(state["uniform_share"], kept["uniform_share"])


@pytest.mark.parametrize("damage", ["missing", "unknown", "policy", "form"])
def test_a_state_that_does_not_fit_changes_nothing(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, damage: str
) -> None:
    augmenter = build(teacher, plain_student, Joint(), Gaussian)
    twin = build(teacher, plain_student, Joint(), Gaussian)
    for one in (augmenter, twin):
        one(images).loss().backward()
        one.step()
    state = build(teacher, plain_student, Joint(), Gaussian, seed=5).state_dict()
    if damage == "missing":
        del state["uniform_share"]
    elif damage == "unknown":
        state["surprise"] = 1
    elif damage == "policy":
        state["policy"]["surprise"] = torch.zeros(1)
    else:
        state["policy"]["mean"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"state dict|policy"):
        augmenter.load_state_dict(state)
    assert torch.equal(augmenter(images).images, twin(images).images)
