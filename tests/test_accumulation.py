"""Micro-batches, scaled losses and losses of one's own give the ascent that one plain batch gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from deterministic import FromImages
from torch import Tensor, nn

from hard_aug import HardAugmenter, HardBatch
from hard_aug.distillation import distillation_loss
from hard_aug.objectives import Constraint
from hard_aug.schedules import Alternating, Joint, Schedule
from hard_aug.transforms import Affine


def build(teacher: nn.Module, student: nn.Module, schedule: Schedule) -> HardAugmenter:
    transform = Affine()
    return HardAugmenter(
        teacher=teacher,
        student=student,
        transform=transform,
        policy=FromImages(transform.spec),
        schedule=schedule,
        invariance=Constraint(0.05, initial=1.5),
        spread_weight=0.01,
        spread_floor=None,
    )


def own_loss(hard: HardBatch, student: nn.Module) -> Tensor:
    """The hard view's mean, by the user's own hand."""
    return distillation_loss(student_logits=student(hard.images), teacher_logits=hard.teacher_logits)


def moments(augmenter: HardAugmenter) -> list[Tensor]:
    """Adam's first moments, a tenth of the first gradient: what scale-free Adam steps would hide."""
    state: dict[int, dict[str, Tensor]] = augmenter.state_dict()["optimizer"]["state"]
    return [state[index]["exp_avg"] for index in sorted(state)]


def assert_same_ascent(found: HardAugmenter, expected: HardAugmenter) -> None:
    for a, b in zip(moments(found), moments(expected), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max())), (a, b)
    for a, b in zip(found.policy.parameters(), expected.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert float(found.invariance.multiplier) == pytest.approx(float(expected.invariance.multiplier), rel=1e-5)


@pytest.fixture
def alternating(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> HardAugmenter:
    """What all must agree with: one ascent with passes of its own."""
    augmenter = build(teacher, plain_student, Alternating())
    augmenter(images)
    return augmenter


@pytest.mark.parametrize("sizes", [[8], [4, 4], [2, 2, 2, 2], [1, 7], [5, 0, 3]])
@pytest.mark.parametrize("scale", [1.0, 2.0**12])
def test_micro_batches_with_the_loss_of_the_batch(
    teacher: nn.Module,
    plain_student: nn.Module,
    images: Tensor,
    alternating: HardAugmenter,
    sizes: list[int],
    scale: float,
) -> None:
    augmenter = build(teacher, plain_student, Joint())
    for part in images.split(sizes):
        (augmenter(part).loss() / len(sizes) * scale).backward()
    augmenter.step()
    assert_same_ascent(augmenter, alternating)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_grad_scaler_with_the_loss_of_the_batch(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, alternating: HardAugmenter, enabled: bool
) -> None:
    augmenter = build(teacher, plain_student, Joint())
    optimizer = torch.optim.SGD(plain_student.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=enabled)
    for part in images.split(4):
        scaler.scale(augmenter(part).loss() / 2).backward()
    scaler.step(optimizer)
    scaler.update(2.0**3)
    augmenter.step()  # every factor was noted, so it may come after the update
    assert_same_ascent(augmenter, alternating)


@pytest.mark.parametrize("sizes", [[8], [4, 4], [2, 6]])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_grad_scaler_with_a_loss_of_ones_own(
    teacher: nn.Module,
    plain_student: nn.Module,
    images: Tensor,
    alternating: HardAugmenter,
    sizes: list[int],
    enabled: bool,
) -> None:
    augmenter = build(teacher, plain_student, Joint())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=enabled)
    for part in images.split(sizes):
        scaler.scale(own_loss(augmenter(part), plain_student)).backward()
    augmenter.step(grad_scaler=scaler)
    assert_same_ascent(augmenter, alternating)


def test_a_look_at_the_loss_does_not_weigh_a_loss_of_ones_own(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, alternating: HardAugmenter
) -> None:
    for clean_weight in (0.5, 1.0):
        augmenter = build(teacher, plain_student, Joint())
        hard = augmenter(images)
        with torch.no_grad():
            assert bool(hard.loss(clean_weight=clean_weight).isfinite())
        own_loss(hard, plain_student).backward()
        augmenter.step()
        assert_same_ascent(augmenter, alternating)


def test_a_backward_in_two_parts_adds_up(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, alternating: HardAugmenter
) -> None:
    augmenter = build(teacher, plain_student, Joint())
    hard = augmenter(images)
    for _ in range(2):
        (own_loss(hard, plain_student) / 2).backward()
    augmenter.step()
    assert_same_ascent(augmenter, alternating)


def test_a_batch_that_only_distils_clean_images_tells_the_policy_nothing(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    augmenter = build(teacher, plain_student, Joint())
    augmenter(images).loss(clean_weight=1.0).backward()
    before = augmenter.policy.mean.detach().clone()
    augmenter.step()
    assert torch.equal(augmenter.policy.mean, before)


def test_an_overflow_of_the_scaler_drops_the_step(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, alternating: HardAugmenter
) -> None:
    augmenter = build(teacher, plain_student, Joint())
    optimizer = torch.optim.SGD(plain_student.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    losses: list[Any] = []
    for _ in range(2):
        optimizer.zero_grad()
        losses.append(augmenter(images).loss())
        scaler.scale(losses[-1] * 1e3).backward()
        scaler.step(optimizer)
        scaler.update(1.0)
        augmenter.step()
    assert augmenter.dropped_steps == 1
    assert torch.equal(losses[0], losses[1])  # the student's step was skipped too
    assert_same_ascent(augmenter, alternating)
