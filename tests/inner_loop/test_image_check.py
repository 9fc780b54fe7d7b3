"""`ImageCheck`: the range, the loader's normalisation, and what is clamped."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.inner_loop.image_check import NORMALIZED_TOLERANCE, ImageCheck
from hard_aug.models import Normalization
from hard_aug.utils.checks import RANGE_TOLERANCE

CPU = torch.device("cpu")
IMAGES = torch.linspace(0, 1, 96).view(2, 3, 4, 4)
NORMALIZATION = Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.1))


def with_value(value: float) -> Tensor:
    images = IMAGES.clone()
    images[1, 2, 3, 0] = value
    return images


def test_images_are_detached_and_otherwise_unchanged() -> None:
    leaf = IMAGES.clone().requires_grad_()
    found = ImageCheck(CPU)(leaf)
    assert found.data_ptr() == leaf.data_ptr()  # no copy
    assert torch.equal(found, IMAGES)
    assert not found.requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1 + 2 * RANGE_TOLERANCE, -0.5])
def test_values_out_of_range(value: float) -> None:
    words = r"expected \[0, 1\]" if abs(value) < 10 else "1 NaN or infinite values of 96"
    with pytest.raises(ValueError, match=words):
        ImageCheck(CPU)(with_value(value))


@pytest.mark.parametrize(
    ("settings", "has_clamp"), [({}, False), ({"out_of_range": None}, False), ({"out_of_range": "raise"}, True)]
)
def test_the_fix_is_named(settings: dict[str, Any], has_clamp: bool) -> None:
    """That of a setting only where the caller has it."""
    for normalization, words in (
        (None, r"Divide bytes by 255; if they are normalised, say so with normalization=\(mean, std\)"),
        (NORMALIZATION, "once normalization is undone.*Leave it out for images in"),
    ):
        with pytest.raises(ValueError, match=words) as raised:
            ImageCheck(CPU, normalization, **settings)(255 * IMAGES)
        assert ("out_of_range='clamp'" in str(raised.value)) == has_clamp
        assert "Normalized" not in str(raised.value)


def test_a_normalisation_is_undone_and_clamped() -> None:
    check = ImageCheck(CPU, NORMALIZATION)
    assert torch.allclose(check(NORMALIZATION.normalize(IMAGES)), IMAGES, atol=1e-6)
    slightly = with_value(1 + NORMALIZED_TOLERANCE / 2)
    assert float(check(NORMALIZATION.normalize(slightly)).max()) == 1
    assert check(IMAGES[:0]).shape == (0, 3, 4, 4)
    with pytest.raises(ValueError, match="once normalization is undone"):
        check(10 * IMAGES)
    with pytest.raises(ValueError, match="3 channels, and the images have 1"):
        check(IMAGES[:, :1])


def test_images_that_are_not_normalised_are_noticed_once() -> None:
    check = ImageCheck(CPU, NORMALIZATION)
    with pytest.warns(UserWarning, match=r"no value of the first images is below 0 \(they lie in \[0, 1\]\)"):
        check(IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(IMAGES)
        ImageCheck(CPU, NORMALIZATION)(NORMALIZATION.normalize(IMAGES))
        ImageCheck(CPU, NORMALIZATION)(NORMALIZATION.normalize(1 - IMAGES / 10))  # bright ones
        centred = ImageCheck(CPU, Normalization((0.0,) * 3, (0.5,) * 3))  # implies no value below 0
        centred(IMAGES)
        later = ImageCheck(CPU, NORMALIZATION)
        later(IMAGES[:0])  # nothing to look at
        later(NORMALIZATION.normalize(IMAGES))


@pytest.mark.parametrize("normalization", [None, NORMALIZATION])
@pytest.mark.parametrize("value", [-0.7, 3.0])
def test_values_outside_are_clamped_if_asked(normalization: Normalization | None, value: float) -> None:
    check = ImageCheck(CPU, normalization, out_of_range="clamp")
    given = with_value(value)
    before = given.clone()
    found = check(given if normalization is None else normalization.normalize(given))
    assert torch.allclose(found, with_value(min(max(value, 0.0), 1.0)), atol=1e-6)
    assert torch.equal(given, before)  # the caller's are never written


def test_clamping_hides_no_mistake() -> None:
    check = ImageCheck(CPU, out_of_range="clamp")
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="1 NaN or infinite values of 96"):
            check(with_value(value))
    with pytest.raises(ValueError, match=r"would clamp 9\d % of the values.*Divide bytes by 255"):
        check(255 * IMAGES)
    with pytest.raises(ValueError, match=r"out_of_range='ignore': expected one of raise, clamp"):
        ImageCheck(CPU, out_of_range="ignore")  # type: ignore[arg-type]  # the mistake


def test_images_on_another_device() -> None:
    with pytest.raises(ValueError, match=r"images are on meta.*use images\.to\('cpu'\)"):
        ImageCheck(CPU)(IMAGES.to("meta"))


def test_inference_mode() -> None:
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match="inference_mode"):
            ImageCheck(CPU)(IMAGES)
        assert torch.equal(ImageCheck(CPU)(IMAGES, takes_gradients=False), IMAGES)


def test_labels_out_of_range() -> None:
    check = ImageCheck(CPU)
    labels = torch.tensor([0, 2, 1])
    assert torch.equal(check.labels(labels, classes=3), labels)
    assert check.labels(labels[:0], classes=3).shape == (0,)
    for wrong in (labels - 1, labels + 1):
        with pytest.raises(ValueError, match=r"the teacher has 3 classes: expected 0 to 2"):
            check.labels(wrong, classes=3)
