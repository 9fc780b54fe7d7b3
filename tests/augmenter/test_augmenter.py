"""`HardAugmenter`: its defaults, what a call returns, and that the policy learns what it should."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter, HardBatch
from hard_aug.losses import distillation_loss
from hard_aug.objectives import KL, Constraint, Hinge, Penalty
from hard_aug.policies import Gaussian, Generator, Search, Uniform
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine, Color, Compose

GREY = Color(saturation=None, hue=None)
SCHEDULES = [Alternating(), Alternating(steps=2, every=2, fraction=0.5), Threshold(max_steps=2)]


def train(augmenter: HardAugmenter, student: nn.Module, images: Tensor, steps: int, rate: float = 0.0) -> HardBatch:
    """Run the loop of the README; a rate of 0 leaves the student as it is."""
    optimizer = torch.optim.SGD(student.parameters(), lr=rate)
    for _ in range(steps):
        hard = augmenter(images)
        optimizer.zero_grad()
        hard.loss().backward()
        optimizer.step()
    return hard


def test_defaults(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine())
    assert augmenter.schedule == Alternating(every=6, fraction=0.25, steps=1)
    assert augmenter.exploration == Exploration(entropy_weight=0.08, min_variance=0.15, min_uniform_fraction=0.0)
    assert isinstance(augmenter.policy, Gaussian)
    assert isinstance(augmenter.objective, KL)
    assert augmenter.objective.temperature == 2.0
    assert type(augmenter.invariance) is Penalty
    assert augmenter.invariance.weight == 8.0
    spelled_out = HardAugmenter(
        teacher=teacher,
        student=plain_student,
        transform=Affine(
            translation=0.25, rotation=math.degrees(0.6), scale=math.exp(0.4), shear=0.4, padding_mode="zeros"
        ),
        policy=Gaussian(Affine().spec, std=0.3),
        objective=KL(2.0),
        invariance=Penalty(8.0),
        schedule=Alternating(every=6, fraction=0.25, steps=1),
        exploration=Exploration(entropy_weight=0.08, min_variance=0.15, min_uniform_fraction=0.0),
        learning_rate=0.02,
        hard_fraction=1.0,
        warmup_calls=0,
        batch_norm="shared",
        normalization=None,
        out_of_range="raise",
        backend=None,
        cuda_graph=False,
        seed=0,
    )
    for _ in range(8):
        assert torch.equal(augmenter(images).images, spelled_out(images).images)


def test_defaults_with_a_search(teacher: nn.Module, student: nn.Module) -> None:
    """A search pays off at every call and scores each image by itself."""
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), policy=Search(Affine().spec))
    assert augmenter.schedule == Alternating()
    assert type(augmenter.invariance) is Hinge


def test_the_default_schedule_updates_at_every_sixth_call(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine())
    updated = []
    for _ in range(13):
        before = augmenter.policy.mean.detach().clone()
        augmenter(images)
        updated.append(not torch.equal(augmenter.policy.mean, before))
    assert [call for call, moved in enumerate(updated) if moved] == [0, 6, 12]


def test_the_repr_shows_the_parts_with_their_settings(teacher: nn.Module, student: nn.Module) -> None:
    augmenter = HardAugmenter(
        teacher=teacher,
        student=student,
        transform=Affine(rotation=10.0),
        objective=KL(3.0),
        schedule=Alternating(every=2),
        exploration=Exploration(min_variance=None),
    )
    lines = repr(augmenter).splitlines()
    assert lines[0] == "HardAugmenter("
    assert lines[-1] == ")"
    for line in (
        "  objective=KL(temperature=3.0),",
        "  invariance=Penalty(weight=8.0),",
        "  schedule=Alternating(every=2, fraction=1.0, steps=1),",
        "  exploration=Exploration(entropy_weight=0.08, min_variance=None, min_uniform_fraction=0.0),",
    ):
        assert line in lines
    assert any(line.startswith("  transform=Affine(") and "rotation=10.0" in line for line in lines)
    assert any(line.startswith("  policy=Gaussian(translation_x,") for line in lines)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("policy", [Gaussian, Generator])
def test_the_parts_of_a_batch_are_consistent(
    teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any, policy: Any
) -> None:
    transform = Compose(Affine(), GREY)
    augmenter = HardAugmenter(
        teacher=teacher, student=student, transform=transform, policy=policy(transform.spec), schedule=schedule
    )
    train(augmenter, student, images, 3, rate=0.1)
    hard = augmenter(images)
    assert len(hard) == hard.num_hard == 8
    assert hard.images.shape == images.shape
    assert 0 <= float(hard.images.min()) <= float(hard.images.max()) <= 1
    with torch.no_grad():
        assert torch.allclose(hard.teacher_logits, teacher(hard.images), atol=1e-5)
        assert torch.allclose(hard.clean_teacher_logits, teacher(images), atol=1e-5)
        assert torch.equal(transform(hard.clean_images, hard.u).clamp(0, 1), hard.images)
    assert torch.equal(hard.teacher_consistent, hard.teacher_logits.argmax(1) == hard.clean_teacher_logits.argmax(1))
    assert list(hard.params) == [p.name for p in transform.spec]
    assert torch.equal(hard.params["rotation"], transform.decode(hard.u)["rotation"])
    for tensor in (hard.images, hard.u, hard.teacher_logits, hard.clean_teacher_logits, hard.reference_logits):
        assert not tensor.requires_grad
    assert hard.disagreement.shape == (8,)
    assert float(hard.disagreement.min()) >= -1e-5


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("batch", [0, 1])
def test_empty_and_single_batches(teacher: nn.Module, plain_student: nn.Module, schedule: Any, batch: int) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), schedule=schedule)
    for _ in range(3):
        hard = augmenter(torch.rand(batch, 1, 12, 12))
        loss = hard.loss()
        assert bool(loss.isfinite())
        loss.backward()
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


@pytest.mark.parametrize("schedule", [Alternating(), Alternating(fraction=0.5)])
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
        exploration=Exploration(entropy_weight=0.0, min_variance=None),
        learning_rate=0.05,
    )
    before = float(augmenter(images).disagreement.mean())
    after = float(train(augmenter, plain_student, images, 60).disagreement.mean())
    assert after > 1.1 * before


class Sensitive(nn.Module):
    """A template match: every geometric change changes the prediction."""

    def __init__(self, template: Tensor) -> None:
        super().__init__()
        self.register_buffer("template", template)

    def forward(self, images: Tensor) -> Tensor:
        distance = (images - self.template).square().sum((1, 2, 3))
        return torch.stack((4 - 60 * distance, 60 * distance - 4), dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [Gaussian, Generator])
def test_exploration_prevents_collapse(images: Tensor, policy: Any) -> None:
    template = images[3:4] * torch.linspace(0, 1, 12) * torch.linspace(1, 0.3, 12)[:, None]
    teacher = Sensitive(template[0])
    batch = template.repeat(32, 1, 1, 1)
    stds = {}
    for name, exploration in (("off", Exploration(entropy_weight=0.0, min_variance=None)), ("on", Exploration())):
        transform = Affine(rotation=90, scale=2.0, shear=0.8)  # far beyond what the teacher tolerates
        augmenter = HardAugmenter(
            teacher=teacher,
            student=copy.deepcopy(teacher),  # no disagreement anywhere
            transform=transform,
            policy=policy(transform.spec),
            invariance=Penalty(6.0),
            schedule=Alternating(),
            exploration=exploration,
        )
        for _ in range(400):
            augmenter(batch)
        with torch.no_grad():
            u = augmenter.sample(torch.zeros(4000, 1, 1, 1), torch.Generator().manual_seed(0))
        stds[name] = u.std(0)
        assert (augmenter.uniform_fraction > 0) == (name == "on")
    assert float(stds["off"].mean()) < 0.75 * float(stds["on"].mean())
    assert float(stds["on"].min()) > 0.3


@pytest.mark.slow
def test_a_constraint_bounds_the_teacher_divergence(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    divergences = {}
    for epsilon in (0.02, 0.5):
        augmenter = HardAugmenter(
            teacher=teacher,
            student=plain_student,
            transform=Affine(),
            invariance=Constraint(epsilon, rate=0.1),
            schedule=Alternating(),
            exploration=Exploration(entropy_weight=0.001, min_variance=None),
        )
        for _ in range(300):
            augmenter(images)
        divergences[epsilon] = float(augmenter.invariance.moving_mean)
    assert divergences[0.02] < 0.06
    assert divergences[0.02] < divergences[0.5] + 0.005  # both may be far below their limits


def test_a_uniform_policy_draws_uniformly_and_is_never_updated(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    """Random augmentation, the control, in the same loop and with the same batch."""
    policy = Uniform(Affine().spec, scale=0.5)
    augmenter = HardAugmenter(
        teacher=teacher, student=plain_student, transform=Affine(), policy=policy, schedule=Alternating(steps=2)
    )
    forwards: list[int] = []
    plain_student.register_forward_hook(lambda module, given, out: forwards.append(len(given[0])))
    hard = train(augmenter, plain_student, images, 3, rate=0.1)
    assert forwards == [2, 16, 16, 16]  # the first call checks the student's logits, and each loss takes both views
    assert augmenter.dropped_steps == 0
    assert augmenter.uniform_fraction == 0
    assert hard.loss().requires_grad
    many = augmenter(images.repeat(500, 1, 1, 1))
    rotation = many.params["rotation"] / (0.5 * math.degrees(0.6))  # uniform on (-1, 1)
    assert float(rotation.abs().max()) <= 1
    assert float(rotation.var()) == pytest.approx(1 / 3, rel=0.06)
    expected = policy.sample(images, torch.Generator().manual_seed(0))
    twin = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), policy=policy)
    assert torch.equal(twin(images).u, expected)
    other = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), policy=policy, seed=1)
    other.load_state_dict(twin.state_dict())
    assert torch.equal(other(images).u, twin(images).u)


def test_the_two_view_loss_takes_the_temperature_of_the_objective(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    hard = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), objective=KL(5.0))(images)
    expected = [
        distillation_loss(student_logits=plain_student(view), teacher_logits=logits, temperature=5.0)
        for view, logits in ((images, hard.clean_teacher_logits), (hard.images, hard.teacher_logits))
    ]
    assert torch.allclose(hard.loss(), 0.5 * (expected[0] + expected[1]), atol=1e-5)
