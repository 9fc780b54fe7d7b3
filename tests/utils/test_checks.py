"""Checks of images, labels, logits and normalisations; `tests/augmenter/test_bad_input.py` has them in a call."""

from __future__ import annotations

import functools
import re
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration
from hard_aug.schedules import Threshold
from hard_aug.utils.checks import (
    RANGE_TOLERANCE,
    as_python,
    as_seed,
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
    is_integer,
    is_number,
    looks_channels_last,
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


def make_number() -> int:
    return 3


@pytest.mark.parametrize(
    ("value", "expected", "words"),
    [
        (functools.partial(nn.Linear, 2), nn.Module, "got a partial of Linear; call it, and pass what it returns"),
        (make_number, nn.Module, "got the function make_number; call it in the forward of a module"),
        (make_number, int, "got the function make_number; pass what it makes"),
    ],
)
def test_what_makes_an_object_in_its_place(value: object, expected: type, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        check_kinds(part=(value, expected))


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True])
def test_integers(value: object) -> None:
    check_integer(count=1, other=7, missing=None)
    with pytest.raises(ValueError, match=f"count={value}: expected an integer >= 1"):
        check_integer(count=value)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor([3])])
def test_integers_of_numpy_and_tensors(value: object) -> None:
    assert is_integer(value)
    check_integer(count=value)
    check_integer(3, count=value)
    with pytest.raises(ValueError, match="expected an integer >= 4"):
        check_integer(4, count=value)
    assert type(as_seed(value)) is int
    assert as_seed(value) == 3
    assert torch.Generator().manual_seed(as_seed(value)).initial_seed() == 3


@pytest.mark.parametrize(
    "value",
    [True, np.bool_(True), torch.tensor(True), 3.0, np.float32(3), torch.tensor(3.0), "3", torch.ones(2).long()],
)
def test_what_is_no_integer(value: object) -> None:
    assert not is_integer(value)
    with pytest.raises(ValueError, match="expected an integer >= 1"):
        check_integer(count=value)
    with pytest.raises(
        ValueError, match=r"noise_seed=.*: expected an integer of at most 64 bits, such as noise_seed=0"
    ):
        as_seed(value, name="noise_seed")


def test_seeds_have_the_range_of_torchs() -> None:
    for seed in (-(2**63), -1, 2**64 - 1):
        torch.Generator().manual_seed(as_seed(seed))
    for seed in (-(2**63) - 1, 2**64):
        with pytest.raises(ValueError, match="expected an integer of at most 64 bits"):
            as_seed(seed)


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), np.float16(0.5), torch.tensor(0.5)])
def test_numbers_of_numpy_and_tensors(value: Any) -> None:
    assert is_number(value)
    check_fraction(p=value)
    check_positive_number(p=value)
    assert as_python(value, None, "x") == (0.5, None, "x")
    assert type(as_python(value)[0]) is float


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), torch.tensor(True), 1j, torch.tensor(1j), torch.ones(1), "1", None]
)
def test_what_is_no_number(value: Any) -> None:
    assert not is_number(value)
    with pytest.raises(ValueError, match="expected a positive number"):
        check_positive_number(p=value)


def test_fields_become_pythons() -> None:
    schedule = Threshold(every=np.int64(2), fraction=np.float32(0.5), max_steps=torch.tensor(3), decay=np.float32(0.5))
    kinds = [type(getattr(schedule, field.name)) for field in fields(schedule)]
    assert kinds == [int, float, float, float, int, int, float]
    assert repr(schedule) == repr(Threshold(every=2, fraction=0.5, max_steps=3, decay=0.5))
    assert type(Exploration(min_variance=np.float32(0.25)).min_variance) is float


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
    for function in (check_image_form, check_images):
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
    for function in (check_image_form, check_images):
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
    for function in (check_images, raise_for_values):
        with pytest.raises(ValueError, match=words):
            function(images)


@pytest.mark.parametrize("value", [1 + RANGE_TOLERANCE / 2, -RANGE_TOLERANCE / 2])
def test_rounding_is_tolerated(value: float) -> None:
    assert bool(images_in_range(with_value(value)))
    assert torch.equal(check_images(with_value(value)), with_value(value))


def test_the_fix_is_named() -> None:
    with pytest.raises(ValueError, match=r"Divide bytes by 255; if they are normalised, undo that first"):
        raise_for_values(255 * IMAGES)
    with pytest.raises(ValueError, match=r"once normalization is undone: expected \[0, 1\]; leave it out"):
        raise_for_values(255 * IMAGES, undone=True, advice="leave it out")


@pytest.mark.parametrize("shape", [(8, 32, 32, 3), (8, 32, 32, 1), (2, 5, 7, 4)])
def test_channels_that_come_last_are_named(shape: tuple[int, ...]) -> None:
    words = re.escape(f"images {shape} look like channels last: expected (B, C, H, W); use images.permute(0, 3, 1, 2)")
    for function in (check_image_form, check_images):
        with pytest.raises(ValueError, match=words):
            function(torch.rand(shape))
    assert check_image_form(torch.rand(shape).permute(0, 3, 1, 2)).shape[1] == shape[3]


@pytest.mark.parametrize(
    "shape", [(8, 3, 32, 32), (8, 3, 32, 3), (8, 1, 1, 1), (8, 3, 4, 4), (8, 16, 8, 8), (8, 4, 9, 4)]
)
def test_other_shapes_pass(shape: tuple[int, ...]) -> None:
    assert check_image_form(torch.rand(shape)).shape == shape


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"image": IMAGES, "label": torch.arange(2)}, r"got dict; pass batch\['image'\]"),
        ({"id": 3, "label": torch.arange(2)}, r"got dict; pass its images \(its keys are 'id', 'label'\)"),
        ([IMAGES, torch.arange(2)], "got list; unpack the batch: images, labels = batch"),
        ((IMAGES, torch.arange(2)), "got tuple; unpack the batch: images, labels = batch"),
        ([IMAGES[0], IMAGES[1]], r"got list; use torch\.stack\(images\)"),
        ([], r"got list; use torch\.as_tensor\(images\)"),
    ],
)
def test_whole_batches_are_taken_apart(batch: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        check_image_form(batch)


def test_inference_mode_is_refused_where_gradients_are_taken() -> None:
    with torch.inference_mode():
        made = IMAGES.clone()
        with pytest.raises(RuntimeError, match=r"inference_mode.*use torch\.no_grad"):
            check_image_form(IMAGES)
        assert torch.equal(check_image_form(made, takes_gradients=False), IMAGES)
    with pytest.raises(RuntimeError, match="inference"):
        check_image_form(made)


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


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 32, 32, 3), True),
        ((8, 48, 160, 3), True),
        ((8, 28, 28, 1), True),
        ((8, 3, 32, 32), False),
        ((8, 64, 5, 3), False),  # features
        ((8, 12, 1000, 1), False),  # signals
        ((8, 3, 4, 4), False),
    ],
)
def test_the_form_of_channels_last(shape: tuple[int, ...], expected: bool) -> None:
    assert looks_channels_last(shape) is expected
