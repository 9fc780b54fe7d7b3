"""Color against a matrix exponential, against kornia, and by what each part must leave unchanged."""

from __future__ import annotations

import math
from typing import Any

import kornia
import pytest
import torch
from torch import Tensor

from hard_aug.transforms import Color
from tests.helpers.transform_parts import u_of

GREY_AXIS = torch.ones(3, dtype=torch.float64) / math.sqrt(3)


def only(name: str, value: float) -> Color:
    """A colour transform of one part."""
    parts: dict[str, Any] = {"brightness": None, "contrast": None, "saturation": None, "hue": None}
    return Color(**{**parts, name: value})


def chroma(images: Tensor) -> Tensor:
    """What of each pixel is off the grey axis."""
    return images - images.mean(1, keepdim=True)


def test_parts_in_the_order_that_is_promised() -> None:
    """Contrast about mid-grey, brightness, saturation across the grey axis, hue as a rotation about it."""
    transform = Color(brightness=0.4, contrast=2.0, saturation=3.0, hue=170.0)
    images, u = torch.rand(4, 3, 3, 2, dtype=torch.float64), torch.randn(4, transform.size, dtype=torch.float64)
    values = transform.decode(u)
    x, y, z = GREY_AXIS
    generator = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    for row in range(4):
        pixels = images[row].flatten(1)
        pixels = 0.5 + values["contrast"][row] * (pixels - 0.5) + values["brightness"][row]
        grey = torch.outer(GREY_AXIS, GREY_AXIS)
        pixels = grey @ pixels + values["saturation"][row] * (pixels - grey @ pixels)
        pixels = torch.linalg.matrix_exp(torch.deg2rad(values["hue"][row]) * generator) @ pixels
        found = transform(images[row : row + 1], u[row : row + 1]).flatten(2)[0]
        assert torch.allclose(found, pixels, atol=1e-12)


def test_brightness_is_that_of_kornia() -> None:
    transform = only("brightness", 0.3)
    images, u = torch.rand(5, 3, 4, 4), torch.randn(5, 1)
    offset = transform.decode(u)["brightness"]
    expected = kornia.enhance.adjust_brightness(images, offset, clip_output=False)
    assert torch.allclose(transform(images, u), expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_scales_the_distance_from_mid_grey(channels: int) -> None:
    transform = only("contrast", 2.5)
    images, u = torch.rand(5, channels, 4, 4), torch.randn(5, 1)
    factor = transform.decode(u)["contrast"][:, None, None, None]
    assert torch.allclose(transform(images, u) - 0.5, factor * (images - 0.5), atol=1e-6)


def test_saturation_scales_chroma_and_keeps_the_mean() -> None:
    transform = only("saturation", 2.0)
    images, u = torch.rand(5, 3, 4, 4), torch.randn(5, 1)
    factor = transform.decode(u)["saturation"][:, None, None, None]
    out = transform(images, u)
    assert torch.allclose(out.mean(1), images.mean(1), atol=1e-6)
    assert torch.allclose(chroma(out), factor * chroma(images), atol=1e-6)


def test_hue_keeps_the_mean_and_the_strength_of_chroma() -> None:
    transform = only("hue", 180.0)
    images, u = torch.rand(5, 3, 4, 4), torch.randn(5, 1)
    out = transform(images, u)
    assert torch.allclose(out.mean(1), images.mean(1), atol=1e-6)
    assert torch.allclose(chroma(out).norm(dim=1), chroma(images).norm(dim=1), atol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(chroma(out), chroma(images), dim=1)
    angle = torch.deg2rad(transform.decode(u)["hue"])[:, None, None].expand_as(cosine)
    assert torch.allclose(cosine, angle.cos(), atol=1e-3)


def test_positive_hue_turns_red_towards_green() -> None:
    transform = only("hue", 60.0)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    turned = transform(red, torch.tensor([[1.0]])).flatten()
    assert turned[1] > turned[2]
    assert turned[0] < 1


def test_a_grey_image_is_treated_as_one_channel_is() -> None:
    colour, grey = Color(), Color(saturation=None, hue=None)
    images, u = torch.rand(3, 1, 4, 4), torch.randn(3, colour.size)
    columns = [[p.name for p in colour.spec].index(p.name) for p in grey.spec]
    expected = grey(images, u[:, columns]).expand(3, 3, 4, 4)
    assert torch.allclose(colour(images.expand(3, 3, 4, 4), u), expected, atol=1e-6)


def test_saturation_and_hue_are_the_identity_on_one_channel() -> None:
    transform, images = Color(), torch.rand(3, 1, 4, 4)
    names = [p.name for p in transform.spec]
    u = torch.randn(3, transform.size)
    without = u.clone()
    without[:, [names.index("saturation"), names.index("hue")]] = 0
    assert torch.equal(transform(images, u), transform(images, without))
    assert torch.equal(transform.render(images, u), transform.render(images, without))
    grey = Color(saturation=None, hue=None)
    columns = [names.index(p.name) for p in grey.spec]
    assert torch.allclose(transform(images, u), grey(images, u[:, columns]), atol=1e-6)
    u.requires_grad_()
    (gradient,) = torch.autograd.grad(transform(images, u).square().sum(), u)
    used = gradient.abs().sum(0) > 0
    assert {name for name, one in zip(names, used.tolist(), strict=True) if one} == {"brightness", "contrast"}


def test_channels_that_do_not_fit() -> None:
    for channels in (2, 4):
        with pytest.raises(ValueError, match=f"Color expected images with 1 or 3 channels, got {channels}"):
            Color()(torch.rand(2, channels, 4, 4), torch.zeros(2, 4))
    chromatic = Color(brightness=None, contrast=None)
    with pytest.raises(ValueError, match=r"only saturation and hue, .* images with 1 channel; add brightness or contr"):
        chromatic(torch.rand(2, 1, 4, 4), torch.zeros(2, 2))
    assert chromatic(torch.rand(2, 3, 4, 4), torch.zeros(2, 2)).shape == (2, 3, 4, 4)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_part_alone_and_off(name: str) -> None:
    value = 0.5 if name in ("brightness", "hue") else 1.5
    assert [p.name for p in only(name, value).spec] == [name]
    off: dict[str, Any] = {name: None}
    assert name not in [p.name for p in Color(**off).spec]
    assert Color(**off).size == 3
    images = torch.rand(2, 3, 5, 4)
    assert torch.allclose(only(name, value)(images, torch.zeros(2, 1)), images, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("brightness", v) for v in (0.0, -0.1, float("nan"), float("inf"))),
        *(("hue", v) for v in (0.0, -1.0, float("inf"))),
        *(("contrast", v) for v in (1.0, 0.5, float("nan"), float("inf"))),
        *(("saturation", v) for v in (1.0, -2.0, float("inf"))),
    ],
)
def test_ranges_that_are_none(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value}.*{name}=None switches it off"):
        only(name, value)


def test_everything_off_raises() -> None:
    with pytest.raises(ValueError, match="give at least one range"):
        Color(brightness=None, contrast=None, saturation=None, hue=None)


def test_nothing_is_clamped_in_between_or_at_the_end() -> None:
    transform = Color(brightness=0.9, contrast=None, saturation=None, hue=None)
    images = torch.rand(1, 3, 2, 2)
    out = transform(images, torch.tensor([[3.0]]))
    assert float(out.max()) > 1
    assert not transform.bounded


def test_colours_keep_the_grey_axis() -> None:
    transform = Color(brightness=None, contrast=None, saturation=2, hue=90)
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    grey = images.mean(1, keepdim=True).expand_as(images)
    u = torch.randn(2, transform.size, dtype=torch.float64)
    assert torch.allclose(transform(grey, u), grey)
    assert torch.allclose(transform(images, u).mean(1), images.mean(1))


def test_hue_by_a_third_of_a_turn_permutes_the_channels() -> None:
    transform = Color(brightness=None, contrast=None, saturation=None, hue=150)
    images = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    turned = transform(images, u_of(transform, hue=120.0))
    assert torch.allclose(turned, images.roll(1, dims=1))


def test_contrast_is_about_mid_grey_and_brightness_adds() -> None:
    transform = Color(saturation=None, hue=None, contrast=2.5, brightness=0.3)
    images = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    assert torch.allclose(transform(images, u_of(transform, contrast=2.0)), 0.5 + 2 * (images - 0.5))
    assert torch.allclose(transform(images, u_of(transform, brightness=0.2)), images + 0.2)


def test_repr_shows_the_settings() -> None:
    assert repr(Color(hue=None)) == "Color(brightness=0.2, contrast=1.5, saturation=1.5, hue=None)"
