"""Normalized: each network gets the input that it expects, and the images stay in [0, 1]."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter, Normalized
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine, Color, Compose

IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def head(classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_network_after_the_arithmetic(dtype: torch.dtype) -> None:
    network = head().to(dtype)
    images = torch.rand(5, 3, 9, 7).to(dtype)
    mean, std = (torch.tensor(IMAGENET[key]).to(dtype)[:, None, None] for key in ("mean", "std"))
    found = Normalized(network, **IMAGENET)(images)
    assert found.dtype == dtype
    assert torch.equal(found, network((images - mean) / std))


def test_gradients_reach_images_and_network() -> None:
    wrapped = Normalized(nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(48, 2)), **IMAGENET).double()
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(wrapped, (images,))
    wrapped(images).sum().backward()
    assert all(p.grad is not None for p in wrapped.parameters())


def test_other_sizes_are_resized_and_the_own_size_is_not() -> None:
    class Shape(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.new_tensor(images.shape[-2:]).expand(len(images), 2)

    wrapped = Normalized(Shape(), **IMAGENET, size=(8, 10))
    for shape in ((8, 10), (20, 6), (3, 3)):
        assert wrapped(torch.rand(2, 3, *shape)).tolist() == [[8, 10], [8, 10]]
    plain = Normalized(Shape(), **IMAGENET)
    assert plain(torch.rand(1, 3, 5, 6)).tolist() == [[5, 6]]


def test_the_constants_move_with_the_module_and_are_saved() -> None:
    wrapped = Normalized(head(), **IMAGENET)
    other = Normalized(head(), mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    other.load_state_dict(wrapped.state_dict())
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(other(images), wrapped(images))
    assert wrapped.double().mean.dtype == torch.float64


@pytest.mark.parametrize("schedule", [Alternating(), Threshold()])
def test_teacher_and_student_may_expect_different_input(schedule: Any) -> None:
    torch.manual_seed(0)
    inner_teacher, inner_student = head(), head()
    seen: dict[str, list[float]] = {"teacher": [], "student": []}
    for name, network in (("teacher", inner_teacher), ("student", inner_student)):
        network.register_forward_pre_hook(
            lambda _, inputs, name=name: seen[name].append(float(inputs[0].detach().min()))
        )
    teacher = Normalized(inner_teacher, **IMAGENET, size=(12, 12)).eval()
    student = Normalized(inner_student, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    transform = Compose(Affine(), Color())
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=transform, schedule=schedule)
    images = torch.rand(4, 3, 10, 10)
    for _ in range(3):
        hard = augmenter(images)
        hard.loss().backward()
        assert 0 <= float(hard.images.detach().min()) <= float(hard.images.detach().max()) <= 1
        assert torch.equal(hard.clean_images, images)
    assert augmenter.dropped_steps == 0
    assert min(seen["teacher"]) < -1.5  # (0 - 0.485) / 0.229 is -2.1
    assert -1.001 < min(seen["student"]) < -0.5


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"mean": (0.5,), "std": (0.2, 0.2)}, "mean has 1 channels and std 2"),
        ({"mean": (), "std": ()}, "at least 1"),
        ({"mean": (0.5,), "std": (0.0,)}, "positive"),
        ({"mean": (0.5,), "std": (-0.2,)}, "positive"),
        ({"mean": (0.5,), "std": (float("nan"),)}, "positive"),
        ({"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}, "divide both by 255"),
    ],
)
def test_bad_constants(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Normalized(head(), **kwargs)


def test_unfit_images() -> None:
    wrapped = Normalized(head(), **IMAGENET)
    for shape in ((2, 1, 8, 8), (3, 8, 8), (2, 4, 8, 8)):
        with pytest.raises(ValueError, match=r"expected images of shape \(B, 3, H, W\)"):
            wrapped(torch.rand(shape))


def test_normalised_images_raise_with_the_remedy() -> None:
    augmenter = HardAugmenter(teacher=head(), student=head(), transform=Affine())
    normalised = (torch.rand(2, 3, 8, 8) - 0.45) / 0.22
    with pytest.raises(ValueError, match=r"expected \[0, 1\].*Normalized\(model, mean, std\)"):
        augmenter(normalised)
    rounding = torch.rand(2, 3, 8, 8).clamp(1e-3) - 1e-3 - 3e-8
    assert float(rounding.min()) < 0
    assert len(augmenter(rounding)) == 2


def test_repr_shows_the_settings() -> None:
    wrapped = Normalized(nn.Identity(), (0.485, 0.4), (0.229, 1 / 3), size=(8, 8))
    assert "mean=(0.485, 0.4), std=(0.229, 0.3333), size=(8, 8)" in repr(wrapped)
    assert "(model): Identity()" in repr(wrapped)
