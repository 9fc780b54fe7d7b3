"""Schedules: how often, on how many images, at what cost in passes, and what comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.objectives import Penalty
from hard_aug.schedules import Alternating, Joint, Schedule
from hard_aug.transforms import Affine, Context, Parameter, Transform


class Counted(nn.Module):
    """Counts its forward passes and the images in them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return self.model(images)


class CountingPenalty(Penalty):
    """A penalty that counts its updates."""

    updates = 0

    def update(self, mean_change: Tensor) -> None:
        self.updates += 1


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_min=True))
def test_a_share_has_at_least_one_image_and_at_most_all(batch: int, fraction: float) -> None:
    share = Joint(fraction=fraction).share(batch)
    assert min(1, batch) <= share <= batch
    assert abs(share - fraction * batch) <= 0.5 or share == 1


@given(st.integers(1, 50))
def test_every_nth_call_from_the_first_on(every: int) -> None:
    due = [Alternating(every=every).due(call) for call in range(100)]
    assert due[0]
    assert sum(due) == -(-100 // every)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Alternating(steps=2.5), "steps=2.5"),
        (lambda: Alternating(steps=-1), "steps=-1"),
        (lambda: Alternating(every=-3), "every=-3"),
        (lambda: Joint(every=1.5), "every=1.5"),
        (lambda: Joint(every=float("nan")), "every=nan"),
        (lambda: Joint(fraction=float("nan")), "fraction=nan"),
        (lambda: Alternating(fraction=-0.5), "fraction=-0.5"),
    ],
)
def test_what_is_no_number_of_calls_or_steps_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_a_schedule_of_no_kind_is_refused(teacher: nn.Module, student: nn.Module) -> None:
    with pytest.raises(TypeError, match="wanted Alternating, Threshold or Joint, got Schedule"):
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=Schedule())


def test_a_schedule_does_not_change() -> None:
    schedule = Joint()
    with pytest.raises(AttributeError):
        schedule.every = 2  # type: ignore[misc]  # wrong on purpose


def test_alternating_ascends_k_times_in_every_nth_call(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    invariance = CountingPenalty()
    augmenter = HardAugmenter(
        teacher=teacher,
        student=plain_student,
        transform=Affine(),
        invariance=invariance,
        schedule=Alternating(steps=3, every=2),
    )
    counts = []
    for _ in range(5):
        before = augmenter.policy.mean.detach().clone()
        augmenter(images)
        counts.append(invariance.updates)
        augmenter.step()
        moved = not torch.equal(before, augmenter.policy.mean)
        assert moved == (len(counts) % 2 == 1)
    assert counts == [3, 3, 6, 6, 9]
    assert invariance.updates == 9


def test_joint_ascends_once_per_step_whatever_the_micro_batches(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    invariance = CountingPenalty()
    augmenter = HardAugmenter(
        teacher=teacher, student=plain_student, transform=Affine(), invariance=invariance, schedule=Joint()
    )
    for _ in range(2):
        for part in images.split(3):
            augmenter(part).loss().backward()
        augmenter.step()
        augmenter.step()
    assert invariance.updates == 2


@pytest.mark.parametrize(
    ("schedule", "teacher_passes", "student_passes"),
    [
        # Teacher: clean and hard views, then what the ascent takes. Student: the ascent's, then the loss on both views.
        (Alternating(), [8, 8, 8], [8, 16]),
        (Alternating(steps=2), [8, 8, 8, 8], [8, 8, 16]),
        (Alternating(fraction=0.25), [8, 2, 8], [2, 16]),
        (Joint(), [8, 8, 8], [16]),
        (Joint(fraction=0.5), [8, 8, 4], [16]),
        (Joint(teacher_gradient=False), [8, 8], [16]),
    ],
)
def test_passes_through_the_networks(
    teacher: nn.Module,
    plain_student: nn.Module,
    images: Tensor,
    schedule: Any,
    teacher_passes: list[int],
    student_passes: list[int],
) -> None:
    players = Counted(teacher), Counted(plain_student)
    augmenter = HardAugmenter(teacher=players[0], student=players[1], transform=Affine(), schedule=schedule)
    for turn in range(2):
        hard = augmenter(images)
        hard.loss().backward()
        assert float(hard.disagreement.mean()) >= 0  # of the loss's own forward
        augmenter.step()
        if turn == 0:  # the very first call also tries the student on one image
            assert players[1].batches.pop(0) == 1
        assert [sorted(p.batches) for p in players] == [sorted(teacher_passes), sorted(student_passes)]
        for player in players:
            player.batches.clear()


def test_what_comes_back_has_a_graph_under_joint_alone(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    def batch_of(schedule: Any, calls: int = 1) -> Tensor:
        augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), schedule=schedule)
        return [augmenter(images) for _ in range(calls)][-1].images

    assert not batch_of(Alternating()).requires_grad
    due = batch_of(Joint(every=2))
    assert due.requires_grad
    assert due.is_leaf
    assert not batch_of(Joint(every=2), calls=2).requires_grad


class Labelled(Transform):
    """Adds a fraction that depends on the label."""

    spec = (Parameter("strength", -0.1, 0.1, 0.0, "intensity"),)

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[int]]] = []

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        if context.labels is None:
            raise ValueError("Labelled wants labels")
        self.seen.append((len(images), context.labels.tolist()))
        strength = self.decode(u)["strength"] * context.labels
        return images + strength[:, None, None, None]


@pytest.mark.parametrize("schedule", [Alternating(fraction=0.5), Joint(fraction=0.5)])
def test_a_share_of_the_images_comes_with_its_labels(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any
) -> None:
    transform = Labelled()
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=transform, schedule=schedule)
    augmenter(images, labels=torch.arange(8)).loss().backward()
    augmenter.step()
    assert sorted(transform.seen) == [(4, list(range(4))), (8, list(range(8)))]
    with pytest.raises(ValueError, match="wants labels"):
        augmenter(images)
    with pytest.raises(ValueError, match=r"labels.*8"):
        augmenter(images, labels=torch.arange(5))
