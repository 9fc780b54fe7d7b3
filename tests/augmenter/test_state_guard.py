"""A call leaves the networks and the global generator unchanged, also when it raises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.models import unwrap_model
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine


def footprint(*models: nn.Module) -> list[Any]:
    """Copy all that a call could have changed."""
    found: list[Any] = [torch.get_rng_state().clone()]
    for model in models:
        found += [module.training for module in model.modules()]
        found += [value.clone() for value in model.state_dict().values()]
        for parameter in model.parameters():
            found += [parameter.requires_grad, None if parameter.grad is None else parameter.grad.clone()]
    return found


def assert_same(before: list[Any], after: list[Any]) -> None:
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a is b or a == b


@pytest.mark.parametrize("schedule", [Alternating(), Alternating(fraction=0.5), Threshold(), None])
def test_calls_change_nothing(teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any) -> None:
    teacher[0].weight.requires_grad_(False)
    student[2].eval()  # a frozen BatchNorm inside a training network
    student[1].weight.grad = torch.ones_like(student[1].weight)
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule)
    before = footprint(teacher, student)
    hard = augmenter(images)
    assert float(hard.disagreement.mean()) >= 0
    assert_same(before, footprint(teacher, student))
    statistics = student[2].running_mean.clone()
    hard.loss().backward()
    assert torch.equal(student[2].running_mean, statistics)
    before = footprint(teacher, student)
    augmenter(images)
    assert_same(before, footprint(teacher, student))
    assert all(p.grad is None for p in augmenter.policy.parameters())
    assert all(p.grad is None for p in teacher.parameters())


class Explosive(nn.Module):
    """Raises at the n-th forward."""

    def __init__(self, model: nn.Module, fuse: int, error: type[BaseException]) -> None:
        super().__init__()
        self.model, self.fuse, self.error = model, fuse, error

    def forward(self, images: Tensor) -> Tensor:
        self.fuse -= 1
        if self.fuse == 0:
            raise self.error("boom")
        return self.model(images)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("fuse", [1, 2, 3, 4])
@pytest.mark.parametrize("schedule", [Alternating(steps=2), Threshold(max_steps=2)])
def test_a_call_that_raises_changes_nothing(
    teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any, fuse: int, error: type[BaseException]
) -> None:
    explosive = Explosive(teacher, fuse, error)
    augmenter = HardAugmenter(teacher=explosive, student=student, transform=Affine(), schedule=schedule)
    twin = HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule)
    explosive.train()
    teacher.eval()
    before = footprint(explosive, student)
    try:
        augmenter(images)
    except error as caught:
        assert "boom" in str(caught)  # noqa: PT017 - a fuse longer than the call does not raise
        assert_same(before, footprint(explosive, student))
        explosive.fuse = -1
        again, first = augmenter(images), twin(images)
        assert torch.equal(again.images, first.images)
    else:
        assert explosive.fuse > 0


def test_teacher_may_be_the_student(student: nn.Module, images: Tensor) -> None:
    before = footprint(student)
    for schedule in (Alternating(), Threshold()):
        augmenter = HardAugmenter(teacher=student, student=student, transform=Affine(), schedule=schedule)
        hard = augmenter(images)
        assert torch.allclose(hard.disagreement, torch.zeros(8), atol=1e-5)
        assert_same(before, footprint(student))


def test_wrappers_are_unwrapped_in_the_call_and_used_in_the_loss(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    calls: list[int] = []

    class Wrapper(nn.Module):
        """A wrapper like that of `torch.compile`."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self._orig_mod = model

        def forward(self, images: Tensor) -> Tensor:
            calls.append(len(images))
            return self._orig_mod(images)

    wrapped = Wrapper(plain_student)
    assert unwrap_model(wrapped) is plain_student
    assert unwrap_model(nn.DataParallel(wrapped)) is plain_student
    augmenter = HardAugmenter(teacher=teacher, student=wrapped, transform=Affine())
    hard = augmenter(images)
    assert calls == []
    hard.loss().backward()
    assert calls == [16]


def test_a_compiled_student_trains(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    compiled = torch.compile(plain_student, backend="eager")
    augmenter = HardAugmenter(teacher=teacher, student=compiled, transform=Affine(), schedule=Alternating())
    augmenter(images).loss().backward()
    assert augmenter.dropped_steps == 0
    assert plain_student[1].weight.grad is not None
