"""HardAugmenter and HardBatch: what comes back, and that the adversary does its work."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter, HardBatch, Normalized
from hard_aug.distillation import distillation_loss
from hard_aug.objectives import Constraint, Penalty
from hard_aug.policies import Gaussian, Generator
from hard_aug.schedules import Alternating, Joint
from hard_aug.transforms import Affine, Color, Compose

GREY = Color(saturation=None, hue=None)
SCHEDULES = [Alternating(), Alternating(steps=2, every=2, fraction=0.5), Joint(), Joint(every=2, fraction=0.25)]


def train(augmenter: HardAugmenter, student: nn.Module, images: Tensor, steps: int, rate: float = 0.0) -> HardBatch:
    """The loop of the README; a rate of 0 freezes the student."""
    optimizer = torch.optim.SGD(student.parameters(), lr=rate)
    for _ in range(steps):
        hard = augmenter(images)
        optimizer.zero_grad()
        hard.loss().backward()
        optimizer.step()
        augmenter.step()
    return hard


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("policy", [Gaussian, Generator])
def test_a_batch_is_what_it_says(
    teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any, policy: Any
) -> None:
    transform = Compose(Affine(), GREY)
    augmenter = HardAugmenter(
        teacher=teacher, student=student, transform=transform, policy=policy(transform.spec), schedule=schedule
    )
    train(augmenter, student, images, 3, rate=0.1)
    hard = augmenter(images)
    assert len(hard) == 8
    assert hard.images.shape == images.shape
    assert 0 <= float(hard.images.detach().min()) <= float(hard.images.detach().max()) <= 1
    with torch.no_grad():
        assert torch.allclose(hard.teacher_logits, teacher(hard.images), atol=1e-5)
        assert torch.allclose(hard.clean_teacher_logits, teacher(images), atol=1e-5)
        assert torch.equal(transform(hard.clean_images, hard.u).clamp(0, 1), hard.images)
    assert torch.equal(hard.unchanged, hard.teacher_logits.argmax(1) == hard.clean_teacher_logits.argmax(1))
    assert list(hard.params) == [p.name for p in transform.spec]
    assert torch.equal(hard.params["rotation"], transform.decode(hard.u)["rotation"])
    assert not hard.teacher_logits.requires_grad
    assert hard.disagreement.shape == (8,)
    assert float(hard.disagreement.min()) >= -1e-5


@pytest.mark.parametrize("clean_weight", [0.0, 0.5, 1.0])
def test_loss_is_the_mean_of_both_views(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, clean_weight: float
) -> None:
    hard = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine())(images)
    parts = [
        distillation_loss(student_logits=plain_student(view), teacher_logits=answer, temperature=3.0)
        for view, answer in ((images, hard.clean_teacher_logits), (hard.images, hard.teacher_logits))
    ]
    expected = clean_weight * parts[0] + (1 - clean_weight) * parts[1]
    assert torch.allclose(hard.loss(temperature=3.0, clean_weight=clean_weight), expected, atol=1e-5)
    with pytest.raises(ValueError, match="clean_weight=2"):
        hard.loss(clean_weight=2.0)
    with pytest.raises(ValueError, match="temperature=0"):
        hard.loss(temperature=0.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("batch", [0, 1])
def test_empty_and_single_batches(teacher: nn.Module, plain_student: nn.Module, schedule: Any, batch: int) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), schedule=schedule)
    for _ in range(3):
        hard = augmenter(torch.rand(batch, 1, 12, 12))
        loss = hard.loss()
        assert bool(loss.isfinite())
        loss.backward()
        augmenter.step()
    assert hard.images.shape == (batch, 1, 12, 12)
    assert augmenter.dropped_steps == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_memory_format_are_the_inputs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(dtype) for _ in range(2)]
    augmenter = HardAugmenter(teacher=networks[0], student=networks[1], transform=Compose(Affine(), Color()))
    images = torch.rand(4, 3, 10, 14).to(dtype).contiguous(memory_format=torch.channels_last)
    hard = augmenter(images)
    assert hard.images.dtype == dtype
    assert hard.images.is_contiguous(memory_format=torch.channels_last)
    hard.loss().backward()


@pytest.mark.parametrize("schedule", [Alternating(), Joint(), Joint(fraction=0.5)])
@pytest.mark.parametrize("policy", [Gaussian, Generator])
def test_disagreement_rises_against_a_frozen_student(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any, policy: Any
) -> None:
    transform = Affine()
    images = images.repeat(8, 1, 1, 1)
    augmenter = HardAugmenter(
        teacher=teacher,
        student=plain_student,
        transform=transform,
        policy=policy(transform.spec),
        schedule=schedule,
        invariance=Penalty(0.0),
        spread_weight=0.0,
        spread_floor=None,
        learning_rate=0.05,
    )
    before = float(augmenter(images).disagreement.mean())
    after = float(train(augmenter, plain_student, images, 60).disagreement.mean())
    assert after > 1.1 * before


class Brightness(nn.Module):
    """Knows the mean intensity alone, whatever the place: shifts leave its answer, brightness does not."""

    def __init__(self, threshold: float = 0.25) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        above = 20 * (images.mean((1, 2, 3)) - self.threshold)
        return torch.stack((above, -above), dim=1)


def test_the_policy_keeps_what_the_teacher_ignores(images: Tensor) -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.Tanh(), nn.Linear(16, 2))
    inside = torch.zeros(64, 1, 20, 20)
    inside[:, :, 4:16, 4:16] = images.repeat(8, 1, 1, 1) * torch.linspace(0.4, 1, 64)[:, None, None, None]
    student[1] = nn.Linear(400, 16)
    transform = Compose(Affine(translation=0.15, rotation=None, scale=None, shear=None), GREY)
    teacher = Brightness(float(inside.mean((1, 2, 3)).median()))  # every image is near it: any brightness will do harm
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=transform)
    train(augmenter, student, inside, 150, rate=0.05)
    with torch.no_grad():
        spread = augmenter.policy.propose(torch.zeros(2000, 1, 1, 1), torch.Generator().manual_seed(0)).std(0)
    kept, dropped = spread[:2], spread[2]
    assert transform.spec[2].name == "brightness"
    assert float(kept.min()) > 4 * float(dropped)


class Sensitive(nn.Module):
    """A template match: every move changes the answer."""

    def __init__(self, template: Tensor) -> None:
        super().__init__()
        self.register_buffer("template", template)

    def forward(self, images: Tensor) -> Tensor:
        distance = (images - self.template).square().sum((1, 2, 3))
        return torch.stack((4 - 60 * distance, 60 * distance - 4), dim=1)


@pytest.mark.parametrize("policy", [Gaussian, Generator])
def test_spread_defends_against_collapse(images: Tensor, policy: Any) -> None:
    template = images[3:4] * torch.linspace(0, 1, 12) * torch.linspace(1, 0.3, 12)[:, None]
    teacher = Sensitive(template[0])
    batch = template.repeat(32, 1, 1, 1)
    spreads = {}
    for name, kwargs in (
        ("off", {"spread_weight": 0.0, "spread_floor": None}),
        ("on", {}),
    ):
        transform = Affine(rotation=90, scale=2.0, shear=0.8)  # far beyond what the teacher bears
        augmenter = HardAugmenter(
            teacher=teacher,
            student=copy.deepcopy(teacher),  # nothing to disagree on
            transform=transform,
            policy=policy(transform.spec),
            invariance=Penalty(6.0),
            **kwargs,
        )
        for _ in range(400):
            augmenter(batch)
        with torch.no_grad():
            u = augmenter.propose(torch.zeros(4000, 1, 1, 1), torch.Generator().manual_seed(0))
        spreads[name] = u.std(0)
        assert (augmenter.uniform_share > 0) == (name == "on")
    assert float(spreads["off"].mean()) < 0.75 * float(spreads["on"].mean())
    assert float(spreads["on"].min()) > 0.3


def test_constraint_holds_the_teachers_change(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    changes = {}
    for epsilon in (0.02, 0.5):
        transform = Affine()
        augmenter = HardAugmenter(
            teacher=teacher,
            student=plain_student,
            transform=transform,
            invariance=Constraint(epsilon, rate=0.1),
            spread_weight=0.001,
            spread_floor=None,
        )
        for _ in range(300):
            augmenter(images)
        changes[epsilon] = float(augmenter.invariance.moving_mean)
    assert changes[0.02] < 0.06
    assert changes[0.02] < changes[0.5]


def test_normalised_networks_see_what_they_want(images: Tensor) -> None:
    seen: list[Tensor] = []

    class Recorder(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(inputs)
            return inputs.mean((2, 3))

    wrapped = Normalized(Recorder(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.5), size=(6, 6))
    coloured = images.repeat(1, 3, 1, 1)
    wrapped(coloured)
    assert seen[0].shape == (8, 3, 6, 6)
    plain = Normalized(Recorder(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.5))
    plain(coloured)
    assert torch.allclose(seen[1][:, 2], (coloured[:, 2] - 0.3) / 0.5)
    assert set(plain.state_dict()) == {"mean", "std"}
    for mean, std, words in (
        ((0.5,), (0.2, 0.2), "1 channels"),
        ((0.5,), (0.0,), "positive"),
        ((125.0,), (60.0,), "255"),
    ):
        with pytest.raises(ValueError, match=words):
            Normalized(Recorder(), mean=mean, std=std)
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        plain(images)
