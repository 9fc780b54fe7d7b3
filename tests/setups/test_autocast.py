"""Under the caller's autocast only the networks run in low precision; coordinates, draws and divergences do not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter
from hard_aug.objectives import Penalty, kl_divergence
from hard_aug.policies import Gaussian, Generator, Policy
from hard_aug.schedules import Alternating, Joint, Threshold
from hard_aug.transforms import Affine, Color, Compose, Transform

SPEC = Compose(Affine(), Color()).spec
LOW = [torch.bfloat16, torch.float16]


def autocast(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast("cpu", dtype=dtype)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("transform", [Affine(), Color(), Compose(Affine(), Affine(), Color(), Color())])
def test_transforms_keep_their_precision(transform: Transform, dtype: torch.dtype) -> None:
    images, u = torch.rand(2, 3, 48, 48), 0.5 * torch.randn(2, transform.size)
    expected = transform(images, u)
    with autocast(dtype):
        found = transform(images, u)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", [Gaussian, Generator])
def test_policies_keep_their_precision(kind: type[Policy], images: Tensor) -> None:
    transform = Affine()
    policy = kind(transform.spec)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    augmenters = [
        HardAugmenter(teacher=nn.Flatten(), student=nn.Flatten(), transform=transform, policy=policy) for _ in range(2)
    ]
    expected = augmenters[0].sample(images, torch.Generator().manual_seed(0))
    with autocast(torch.bfloat16):
        found = augmenters[1].sample(images, torch.Generator().manual_seed(0))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("schedule", [Alternating(), Joint(), Threshold(max_steps=1)])
@pytest.mark.parametrize("kind", [Gaussian, Generator])
def test_a_whole_step(
    teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any, kind: type[Policy], dtype: torch.dtype
) -> None:
    transform = Compose(Affine(), Affine())
    augmenter = HardAugmenter(
        teacher=teacher, student=student, transform=transform, policy=kind(transform.spec), schedule=schedule
    )
    before = [p.detach().clone() for p in augmenter.policy.parameters()]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for _ in range(3):
        with autocast(dtype):
            hard = augmenter(images)
            loss = hard.loss()
        assert hard.images.dtype == hard.u.dtype == loss.dtype == torch.float32
        assert torch.equal(transform(hard.clean_images, hard.u).clamp(0, 1), hard.images)
        scaler.scale(loss).backward()
    assert augmenter.dropped_steps == 0
    after = list(augmenter.policy.parameters())
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", [Gaussian, Generator])
def test_the_entropy_is_computed_in_full_precision(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, kind: type[Policy]
) -> None:
    """With all but constant networks only the entropy has a gradient, and autocast must not change it."""
    teacher[-1].weight.data.mul_(1e-30)
    plain_student[-1].weight.data.mul_(1e-30)
    policies = []
    for enabled in (False, True):
        transform = Affine()
        policy = kind(transform.spec)
        augmenter = HardAugmenter(
            teacher=teacher, student=plain_student, transform=transform, policy=policy, schedule=Alternating()
        )
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            for _ in range(5):
                augmenter(images)
        policies.append(policy)
    for full, low in zip(policies[0].parameters(), policies[1].parameters(), strict=True):
        assert torch.allclose(full, low, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", LOW)
def test_divergences_of_low_precision_logits(dtype: torch.dtype) -> None:
    teacher, student = torch.randn(2, 6, 5).to(dtype)
    expected = kl_divergence(teacher_logits=teacher.double(), student_logits=student.double())
    with autocast(dtype):
        found = kl_divergence(teacher_logits=teacher, student_logits=student)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, atol=1e-5)


def test_networks_of_low_precision_learn(images: Tensor) -> None:
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(144, 5)).bfloat16() for _ in range(2))
    low = images.bfloat16()
    for schedule in (Alternating(), Threshold(max_steps=1)):
        augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule)
        before = augmenter.policy.mean.detach().clone()
        hard = augmenter(low)
        hard.loss().backward()
        assert hard.images.dtype == torch.bfloat16
        assert hard.teacher_logits.dtype == torch.bfloat16
        assert augmenter.policy.mean.dtype == torch.float32
        assert not torch.equal(augmenter.policy.mean, before)
        assert augmenter.dropped_steps == 0


def test_gradients_of_networks_that_nearly_agree_survive_half_precision() -> None:
    """Many classes and average pooling make each gradient tiny: without scaling they would be zeros in float16."""
    torch.manual_seed(0)
    teacher = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1000)
    ).eval()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * parameter.std() * torch.randn_like(parameter))
    images = nn.functional.interpolate(torch.rand(8, 1, 8, 8), (96, 96), mode="bilinear")
    found = []
    for dtype in (torch.float32, torch.float16):
        augmenter = HardAugmenter(
            teacher=teacher,
            student=student,
            transform=Affine(),
            schedule=Alternating(),
            invariance=Penalty(0.0),
            exploration=Exploration(entropy_weight=0.0),
        )
        with torch.autocast("cpu", dtype=torch.float16, enabled=dtype == torch.float16):
            augmenter(images)
        moments = augmenter.state_dict()["optimizer"]["state"].values()
        found.append(torch.cat([moment["exp_avg"].flatten() for moment in moments]))
    exact, half = found
    assert float(torch.cosine_similarity(half, exact, dim=0)) > 0.999
    assert float(half.norm() / exact.norm()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("settings", [{}, {"hard_fraction": 0.5}])
@pytest.mark.parametrize("rows", [0, 8])
def test_images_of_half_precision_under_the_other(
    teacher: nn.Module, student: nn.Module, images: Tensor, settings: dict[str, Any], rows: int
) -> None:
    """PyTorch's autocast on the CPU takes no float16 for what joins tensors."""
    augmenter = HardAugmenter(
        teacher=teacher.to(torch.bfloat16), student=student.eval().to(torch.bfloat16), transform=Affine(), **settings
    )
    with autocast(torch.bfloat16):
        hard = augmenter(images[:rows].half())
        loss = hard.loss()
    assert hard.images.dtype == torch.float16
    assert bool(loss.isfinite())
