"""Augmenters do not depend on each other, on grad mode, or on the wrappers of the networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.models import unwrap_model
from hard_aug.policies import Gaussian, Generator
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine

SCHEDULES = [Alternating(), Threshold()]


def build(teacher: nn.Module, student: nn.Module, schedule: Any, policy: Any = Gaussian, seed: int = 0) -> Any:
    transform = Affine()
    return HardAugmenter(
        teacher=teacher,
        student=student,
        transform=transform,
        policy=policy(transform.spec),
        schedule=schedule,
        seed=seed,
    )


def step(augmenter: HardAugmenter, images: Tensor) -> Tensor:
    hard = augmenter(images)
    hard.loss().backward()
    return hard.images


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("policy", [Gaussian, Generator])
def test_two_augmenters_are_independent(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any, policy: Any
) -> None:
    alone = build(teacher, plain_student, schedule, policy)
    expected = [step(alone, images) for _ in range(3)]
    first, second = (build(teacher, plain_student, schedule, policy, seed) for seed in (0, 1))
    for views in expected:
        found, other = step(first, images), step(second, images)
        assert torch.equal(found, views)
        assert not torch.equal(other, views)
        torch.rand(7)  # the global generator is not used either
        torch.manual_seed(int(1e6 * float(views.mean())))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_draws_depend_on_the_seed(teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any) -> None:
    views = [build(teacher, plain_student, schedule, seed=seed)(images).images for seed in (3, 3, 4)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_a_call_under_no_grad_is_the_same_call(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    first, second = (build(teacher, plain_student, Alternating()) for _ in range(2))
    for _ in range(2):
        expected = first(images)
        with torch.no_grad():
            found = second(images)
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.disagreement, expected.disagreement)
    assert torch.equal(first.policy.mean, second.policy.mean)
    assert bool(first.policy.mean.any())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_images_with_a_graph_are_detached(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any
) -> None:
    augmenter, twin = (build(teacher, plain_student, schedule) for _ in range(2))
    leaf = images.clone().requires_grad_()
    augmenter(leaf * 1.0).loss().backward()
    step(twin, images)
    assert leaf.grad is None
    assert torch.equal(augmenter.policy.mean, twin.policy.mean)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_shared_trunk_keeps_its_modes_and_its_gradients(images: Tensor, schedule: Any) -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.BatchNorm1d(16), nn.Tanh())
    teacher = nn.Sequential(trunk, nn.Linear(16, 5))
    student = nn.Sequential(trunk, nn.Dropout(0.5), nn.Linear(16, 5))
    teacher[1].eval()
    augmenter = build(teacher, student, schedule)
    flags = [m.training for model in (teacher, student) for m in model.modules()]
    statistics = trunk[2].running_mean.clone()
    hard = augmenter(images)
    assert [m.training for model in (teacher, student) for m in model.modules()] == flags
    assert torch.equal(trunk[2].running_mean, statistics)
    hard.loss().backward()
    noted = trunk[1].weight.grad.clone()
    augmenter(images)
    assert torch.equal(trunk[1].weight.grad, noted)
    assert teacher[1].weight.grad is None
    assert [m.training for model in (teacher, student) for m in model.modules()] == flags


class Counted(nn.Module):
    """A wrapper like that of `torch.compile`, which counts its forwards."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self._orig_mod(images)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_only_the_loss_runs_the_wrappers(teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any) -> None:
    wrapped = Counted(teacher), Counted(student)
    augmenter = build(*wrapped, schedule)
    hard = augmenter(images)
    assert hard.disagreement.shape == (8,)  # runs the unwrapped student in evaluation mode
    assert [w.calls for w in wrapped] == [0, 0]
    hard.loss().backward()
    assert [w.calls for w in wrapped] == [0, 1]
    assert hard.disagreement.shape == (8,)
    assert wrapped[1].calls == 1
    assert student.training


def test_data_parallel_networks_are_unwrapped(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    wrapped = nn.DataParallel(plain_student)
    assert unwrap_model(wrapped) is plain_student
    assert unwrap_model(plain_student) is plain_student
    for schedule in SCHEDULES:
        found = step(build(teacher, wrapped, schedule), images)
        expected = step(build(teacher, plain_student, schedule), images)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_networks_are_not_registered(teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any) -> None:
    augmenter = build(teacher, student, schedule)
    step(augmenter, images)
    weights = {id(p) for model in (teacher, student) for p in model.parameters()}
    assert not weights & {id(p) for p in augmenter.policy.parameters()}
    saved = sum(value.numel() for value in augmenter.state_dict()["policy"].values())
    assert saved == sum(p.numel() for p in augmenter.policy.parameters())
