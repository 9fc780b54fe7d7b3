"""Normalized: each network gets the input that it expects, and the images stay in [0, 1]."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter, Normalized
from hard_aug.models import NetworkNormalizations, Normalization
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
    with pytest.raises(ValueError, match=r"expected \[0, 1\].*normalization=\(mean, std\)"):
        augmenter(normalised)
    rounding = torch.rand(2, 3, 8, 8).clamp(1e-3) - 1e-3 - 3e-8
    assert float(rounding.min()) < 0
    assert len(augmenter(rounding)) == 2


def test_repr_shows_the_settings() -> None:
    wrapped = Normalized(nn.Identity(), (0.485, 0.4), (0.229, 1 / 3), size=(8, 8))
    assert "mean=(0.485, 0.4), std=(0.229, 0.3333), size=(8, 8)" in repr(wrapped)
    assert "(model): Identity()" in repr(wrapped)


# Normalization ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_normalisation_and_its_inverse(dtype: torch.dtype) -> None:
    given, images = Normalization(**IMAGENET), torch.rand(4, 3, 5, 6).to(dtype)
    mean, std = (torch.tensor(IMAGENET[key], dtype=torch.float64)[:, None, None] for key in ("mean", "std"))
    found = given.normalize(images)
    tolerance = 4 * torch.finfo(dtype).eps
    assert found.dtype == dtype
    assert torch.allclose(found.double(), (images.double() - mean) / std, rtol=tolerance, atol=tolerance)
    back = given.denormalize(found)
    assert back.dtype == dtype
    assert torch.allclose(back.double(), found.double() * std + mean, rtol=tolerance, atol=tolerance)
    assert torch.allclose(back, images, atol=4 * tolerance)


def test_a_normalisation_is_what_its_numbers_are() -> None:
    given = Normalization(**IMAGENET)
    images = torch.rand(1, 3, 2, 2)
    expected = given.normalize(images)
    for same in (Normalization(*(list(values) for values in IMAGENET.values())), copy.deepcopy(given)):
        assert same == given
        assert hash(same) == hash(given)
        assert torch.equal(same.normalize(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(given)).normalize(images), expected)
    assert given != Normalization((0.5,), (0.5,))
    assert repr(given) == "Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))"
    with torch.inference_mode():
        other = Normalization((0.5,), (0.5,))
        other.normalize(torch.rand(1, 1, 2, 2))
    other.normalize(torch.rand(1, 1, 2, 2, requires_grad=True)).sum().backward()


def test_other_channels_are_refused() -> None:
    for run in (Normalization(**IMAGENET).normalize, Normalization(**IMAGENET).denormalize):
        with pytest.raises(ValueError, match=r"expected images of shape \(B, 3, H, W\).*got \(2, 1, 4, 4\)"):
            run(torch.rand(2, 1, 4, 4))


def test_what_a_caller_may_write() -> None:
    one, other = ((0.5,), (0.25,)), ([0.1], [0.2])
    both = NetworkNormalizations.parse(one)
    assert both == (Normalization(*one), Normalization(*one))
    assert NetworkNormalizations.parse(both) is both
    assert NetworkNormalizations.parse(Normalization(*one)) == both
    assert NetworkNormalizations.parse({"teacher": one, "student": other}).student == Normalization(*other)
    numbers = torch.tensor(one)
    assert NetworkNormalizations.parse((numbers[0], numbers[1].numpy())) == both


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (0.5, TypeError, r"normalization=0\.5: expected \(mean, std\)"),
        ((0.5, 0.5), TypeError, "expected a number for each channel"),
        ("ab", TypeError, "expected a number for each channel"),
        (((0.5,),), TypeError, r"expected \(mean, std\)"),
        ({"student": ((0.5,), (0.5,))}, TypeError, '{"teacher": '),
        ({"teacher": 3, "student": ((0.5,), (0.5,))}, TypeError, r'normalization\["teacher"\]=3'),
        (((0.5,), (0.5, 0.5)), ValueError, "mean has 1 channels and std 2"),
        (((0.5,), (0.0,)), ValueError, "those of std positive"),
        (((127.0,), (64.0,)), ValueError, "divide both by 255"),
    ],
)
def test_what_is_no_normalisation(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        NetworkNormalizations.parse(given)
