"""On a CUDA device: where things live, no waiting for the device, and the same ascent as on the CPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from deterministic import FromImages
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.objectives import ConfidenceGap
from hard_aug.policies import Conditional, Search
from hard_aug.schedules import Alternating, Joint, Threshold
from hard_aug.transforms import Affine, Color, Compose, Elastic, Filter, PatchMix, Perspective

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SCHEDULES = [Alternating(), Joint(), Joint(fraction=0.5)]
GREY = Color(saturation=None, hue=None)


def step(augmenter: HardAugmenter, images: Tensor) -> Any:
    hard = augmenter(images)
    hard.loss().backward()
    augmenter.step()
    return hard


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_device_dtype_and_memory_format(
    teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any, dtype: torch.dtype
) -> None:
    networks = {"teacher": teacher.to("cuda", dtype), "student": student.to("cuda", dtype)}
    augmenter = HardAugmenter(**networks, transform=Compose(Affine(), GREY), schedule=schedule)
    hard = step(augmenter, images.to("cuda", dtype))
    for tensor in (hard.images, hard.teacher_logits, hard.disagreement, hard.params["rotation"], hard.u):
        assert tensor.is_cuda
    assert hard.images.dtype == dtype
    assert hard.u.dtype == torch.float32
    assert all(p.is_cuda and p.dtype == torch.float32 for p in augmenter.policy.parameters())
    assert augmenter.dropped_steps == 0
    with pytest.raises(ValueError, match=r"images are on cpu.*cuda"):
        augmenter(images)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_do_not_wait_for_the_device(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any
) -> None:
    augmenter = HardAugmenter(
        teacher=teacher.cuda(), student=plain_student.cuda(), transform=Compose(Affine(), GREY), schedule=schedule
    )
    images = images.cuda()
    for _ in range(2):  # the first call of a shape reads values
        step(augmenter, images)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            step(augmenter, images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert augmenter.dropped_steps == 0


PARTS: dict[str, Any] = {
    "perspective": lambda: {"transform": Compose(Affine(), Perspective(), GREY)},
    "elastic": lambda: {"transform": Compose(Affine(), Elastic(control=4), GREY)},
    "mix": lambda: {"transform": PatchMix(image_size=12, patch_size=4)},
    "conditional": lambda: {"transform": Affine(), "policy": Conditional(Affine().spec, channels=1)},
    "search": lambda: {"transform": Affine(), "policy": Search(Affine().spec)},
    "floor": lambda: {"transform": Affine(), "uniform_floor": 0.3},
    "labels": lambda: {"transform": Affine(), "objective": ConfidenceGap()},
    "share": lambda: {"transform": Affine(), "share": 0.5, "batch_norm": "split"},
}


@pytest.mark.parametrize("name", PARTS)
def test_other_parts_do_not_wait_either(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, name: str
) -> None:
    augmenter = HardAugmenter(teacher=teacher.cuda(), student=plain_student.cuda(), **PARTS[name]())
    images, labels = images.cuda(), (torch.arange(8) % 5).cuda()
    for _ in range(2):
        augmenter(images, labels).loss().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            augmenter(images, labels).loss().backward()
            augmenter.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert augmenter.dropped_steps == 0
    augmenter.check()
    augmenter(images, labels + 5)
    if name == "labels":
        with pytest.raises(ValueError, match="labels of no class"):
            augmenter.check()


def test_filters_and_thresholds(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    transform = Filter(solarize=1.0, motion_blur=1.0, motion_length=5)
    augmenter = HardAugmenter(
        teacher=teacher.cuda(), student=plain_student.cuda(), transform=transform, schedule=Threshold()
    )
    for _ in range(3):
        assert step(augmenter, images.cuda()).images.is_cuda
    assert augmenter.dropped_steps == 0


@pytest.mark.parametrize("schedule", [Alternating(), Joint()])
@pytest.mark.parametrize("warm", [0, 2])
def test_a_gradient_that_is_not_finite_is_dropped(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any, warm: int
) -> None:
    teacher, images = teacher.cuda(), images.cuda()
    augmenter = HardAugmenter(teacher=teacher, student=plain_student.cuda(), transform=Affine(), schedule=schedule)
    for _ in range(warm):
        step(augmenter, images)
    before = copy.deepcopy(augmenter.policy.state_dict())
    bias = teacher[-1].bias.detach().clone()
    teacher[-1].bias.data.fill_(float("nan"))
    step(augmenter, images)
    teacher[-1].bias.data.copy_(bias)
    assert augmenter.dropped_steps == 1
    assert all(torch.equal(value, before[key]) for key, value in augmenter.policy.state_dict().items())
    step(augmenter, images)
    assert not torch.equal(augmenter.policy.log_std, before["log_std"])


def test_bad_values_are_found_by_check(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = HardAugmenter(teacher=teacher.cuda(), student=plain_student.cuda(), transform=Affine())
    with pytest.raises(ValueError, match=r"wanted \[0, 1\]"):
        augmenter(images.cuda() * 2)
    augmenter(images.cuda())
    augmenter.check()
    augmenter(images.cuda() * 2)
    with pytest.raises(ValueError, match="since the last check"):
        augmenter.check()
    augmenter.check()


@pytest.mark.parametrize("schedule", [Alternating(), Joint()])
def test_resume_is_bit_equal(teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any) -> None:
    images = images.cuda()
    first, second = (
        HardAugmenter(
            teacher=teacher.cuda(), student=plain_student.cuda(), transform=Affine(), schedule=schedule, seed=seed
        )
        for seed in (0, 1)
    )
    for _ in range(3):
        step(first, images)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(images).u, second(images).u)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ascent_is_that_of_the_cpu(teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any) -> None:
    means = []
    for device in ("cpu", "cuda"):
        transform = Affine()
        augmenter = HardAugmenter(
            teacher=copy.deepcopy(teacher).to(device),
            student=copy.deepcopy(plain_student).to(device),
            transform=transform,
            policy=FromImages(transform.spec),
            schedule=schedule,
            spread_floor=None,
        )
        for _ in range(5):
            step(augmenter, images.to(device))
        means.append(augmenter.policy.mean.detach().cpu())
    assert bool(means[0].any())
    assert torch.allclose(means[0], means[1], atol=0.01)
