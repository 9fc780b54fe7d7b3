"""Checks of images, labels, logits and normalisations; `tests/augmenter/test_bad_input.py` has them in a call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug.utils.checks import (
    NORMALIZED_TOLERANCE,
    RANGE_TOLERANCE,
    ImageCheck,
    check_fraction,
    check_image_form,
    check_images,
    check_integer,
    check_kinds,
    check_labels,
    check_logits,
    check_nonnegative,
    check_positive_number,
    check_same_classes,
    check_unit_interval,
    checked_normalization,
    images_in_range,
    raise_for_values,
)

CPU = torch.device("cpu")
IMAGES = torch.linspace(0, 1, 2 * 3 * 16).view(2, 3, 4, 4)


def test_kinds() -> None:
    check_kinds(model=(nn.Flatten(), nn.Module), count=(3, int))
    for value, words in ((nn.Flatten, "got the class Flatten"), (None, "got NoneType"), (3, "got int")):
        with pytest.raises(TypeError, match=f"model: expected a Module, {words}"):
            check_kinds(model=(value, nn.Module))
    with pytest.raises(TypeError, match="x: expected an Exception, got int"):
        check_kinds(x=(3, Exception))


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True])
def test_integers(value: object) -> None:
    check_integer(count=1, other=7, missing=None)
    with pytest.raises(ValueError, match=f"count={value}: expected an integer >= 1"):
        check_integer(count=value)


def test_integers_of_another_least() -> None:
    check_integer(0, count=0)
    with pytest.raises(ValueError, match="count=2: expected an integer >= 3"):
        check_integer(3, count=2)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_positive_numbers(value: float) -> None:
    check_positive_number(rate=1e-9, other=3)
    with pytest.raises(ValueError, match=f"rate={value}: expected a positive number"):
        check_positive_number(rate=value)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_numbers_in_the_unit_interval(value: float) -> None:
    check_unit_interval(weight=0.0, other=1)
    with pytest.raises(ValueError, match=rf"weight={value}: expected a number in \[0, 1\]"):
        check_unit_interval(weight=value)


def test_images_are_detached_and_otherwise_unchanged() -> None:
    leaf = IMAGES.clone().requires_grad_()
    for function in (check_image_form, check_images, ImageCheck(CPU)):
        found = function(leaf)
        assert torch.equal(found, IMAGES)
        assert not found.requires_grad


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (IMAGES.numpy(), TypeError, r"expected a torch\.Tensor, got ndarray"),
        (IMAGES.byte(), TypeError, r"torch\.uint8.*images\.float\(\) / 255"),
        (IMAGES[0], ValueError, r"expected shape \(B, C, H, W\), got \(3, 4, 4\)"),
        (IMAGES[:, :0], ValueError, "no pixels"),
        (IMAGES[..., :0], ValueError, "no pixels"),
    ],
)
def test_images_of_the_wrong_form(images: Any, error: type[Exception], words: str) -> None:
    for function in (check_image_form, check_images, ImageCheck(CPU)):
        with pytest.raises(error, match=words):
            function(images)


def with_value(value: float) -> Tensor:
    images = IMAGES.clone()
    images[1, 2, 3, 0] = value
    return images


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1 + 2 * RANGE_TOLERANCE, -0.5])
def test_values_out_of_range(value: float) -> None:
    images = with_value(value)
    assert not bool(images_in_range(images))
    words = r"expected \[0, 1\]" if abs(value) < 10 else "1 NaN or infinite values of 96"
    for function in (check_images, ImageCheck(CPU), raise_for_values):
        with pytest.raises(ValueError, match=words):
            function(images)


@pytest.mark.parametrize("value", [1 + RANGE_TOLERANCE / 2, -RANGE_TOLERANCE / 2])
def test_rounding_is_tolerated(value: float) -> None:
    assert bool(images_in_range(with_value(value)))
    assert torch.equal(check_images(with_value(value)), with_value(value))


def test_the_fix_is_named() -> None:
    with pytest.raises(ValueError, match=r"Divide bytes by 255.*normalization=\(mean, std\).*hard_aug\.Normalized"):
        raise_for_values(255 * IMAGES)
    with pytest.raises(ValueError, match=r"once normalization is undone.*re_mode='const'"):
        raise_for_values(255 * IMAGES, undone=True)


def test_a_normalisation_is_undone_and_clamped() -> None:
    check = ImageCheck(CPU, ((0.4, 0.5, 0.6), (0.2, 0.3, 0.1)))
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.3, 0.1])[:, None, None]
    assert torch.allclose(check((IMAGES - mean) / std), IMAGES, atol=1e-6)
    slightly = with_value(1 + NORMALIZED_TOLERANCE / 2)
    assert float(check((slightly - mean) / std).max()) == 1
    assert check(IMAGES[:0]).shape == (0, 3, 4, 4)
    with pytest.raises(ValueError, match="once normalization is undone"):
        check(10 * IMAGES)
    with pytest.raises(ValueError, match="3 channels, and the images have 1"):
        check(IMAGES[:, :1])


def test_images_on_another_device() -> None:
    with pytest.raises(ValueError, match=r"images are on meta.*use images\.to\('cpu'\)"):
        ImageCheck(CPU)(IMAGES.to("meta"))


@pytest.mark.parametrize(
    ("normalization", "error", "words"),
    [
        (0.5, TypeError, r"normalization=0\.5: expected \(mean, std\)"),
        ((0.5, 0.2), TypeError, r"expected \(mean, std\)"),
        (((0.5,), (0.2, 0.2)), ValueError, "mean has 1 channels and std 2"),
        (((), ()), ValueError, "at least 1"),
        (((0.5,), (0.0,)), ValueError, "those of std positive"),
        (((float("nan"),), (0.2,)), ValueError, "finite numbers"),
        (((123.0,), (50.0,)), ValueError, r"units of \[0, 255\]; divide both by 255"),
    ],
)
def test_bad_normalisations(normalization: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ImageCheck(CPU, normalization)


def test_normalisations_become_lists_of_floats() -> None:
    assert checked_normalization((0, 1), torch.tensor([0.5, 1.0]), name="x") == ([0.0, 1.0], [0.5, 1.0])


def test_labels() -> None:
    check_labels(None, batch=3)
    check_labels(torch.arange(3), batch=3)
    check_labels(torch.arange(3, dtype=torch.uint8), batch=3)
    for labels in (torch.arange(4), torch.zeros(3), torch.ones(3, dtype=torch.bool), torch.zeros(3, 1).long()):
        with pytest.raises(ValueError, match=r"expected integers \(3,\)"):
            check_labels(labels, batch=3)
    with pytest.raises(TypeError, match="got list"):
        check_labels([0, 1, 2], batch=3)
    with pytest.raises(ValueError, match=r"Flatten .*labels: call augmenter\(images, labels\)"):
        check_labels(None, batch=3, required_by=nn.Flatten())


def test_labels_out_of_range() -> None:
    check = ImageCheck(CPU)
    labels = torch.tensor([0, 2, 1])
    assert torch.equal(check.labels(labels, classes=3), labels)
    assert check.labels(labels[:0], classes=3).shape == (0,)
    for wrong in (labels - 1, labels + 1):
        with pytest.raises(ValueError, match=r"the teacher has 3 classes: expected 0 to 2"):
            check.labels(wrong, classes=3)


def test_logits() -> None:
    logits = torch.zeros(4, 3)
    assert check_logits(logits, batch=4, network="teacher") is logits
    with pytest.raises(TypeError, match=r"the teacher returned tuple: expected a tensor of logits \(B, K\)"):
        check_logits((logits,), batch=4, network="teacher")
    for wrong in (logits[:3], logits[:, 0], logits.long()):
        with pytest.raises(ValueError, match=r"the student returned .* for 4 images.*shape \(4, K\)"):
            check_logits(wrong, batch=4, network="student")


def test_numbers_of_classes() -> None:
    check_same_classes(teacher_logits=torch.zeros(4, 3), student_logits=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="the teacher has 3 classes and the student 5"):
        check_same_classes(teacher_logits=torch.zeros(4, 3), student_logits=torch.zeros(4, 5))


@pytest.mark.parametrize("value", [0.0, 1.1, float("nan"), "0.5", True, None])
def test_what_is_no_fraction_raises(value: Any) -> None:
    check_fraction(p=1, other=1e-9)
    with pytest.raises(ValueError, match=rf"p={value}: expected a fraction in \(0, 1\]"):
        check_fraction(p=value)


@pytest.mark.parametrize("value", [-1e-9, float("inf"), float("nan"), "2"])
def test_what_is_negative_or_no_number_raises(value: Any) -> None:
    check_nonnegative(weight=0, other=2.5)
    with pytest.raises(ValueError, match=rf"weight={value}: expected a number >= 0"):
        check_nonnegative(weight=value)
