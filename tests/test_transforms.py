"""Transforms: identity, ranges, directions, gradients, and `Compose` against applying in turn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hard_aug.transforms import Affine, Color, Compose, SpatialTransform, Transform

GREY = Color(saturation=None, hue=None)


def smooth(batch: int, channels: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Smooth images that vanish at the border."""
    y = torch.linspace(-1, 1, height, dtype=dtype)[:, None]
    x = torch.linspace(-1, 1, width, dtype=dtype)[None]
    phases = torch.arange(batch * channels, dtype=dtype).view(batch, channels, 1, 1)
    waves = 0.5 + 0.3 * torch.sin(2 * x + phases) * torch.cos(1.5 * y - phases)
    return waves * (1 - x**2) ** 2 * (1 - y**2) ** 2


def raw(transform: Transform, **values: float) -> Tensor:
    """`u`, `(1, P)`, that decodes to the values; the identity elsewhere."""
    u = torch.zeros(1, transform.size, dtype=torch.float64)
    for column, parameter in enumerate(transform.spec):
        if parameter.name in values:
            low, high, value = parameter.low, parameter.high, values[parameter.name]
            if parameter.logarithmic:
                low, high, value = math.log(low), math.log(high), math.log(value)
            share = (value - (low + high) / 2) / ((high - low) / 2)
            u[0, column] = torch.erfinv(torch.tensor(share, dtype=torch.float64)) * math.sqrt(2)
    return u


@pytest.mark.parametrize("transform", [Affine(), GREY, Compose(Affine(), GREY)])
@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (1, 1, 8, 8), (3, 1, 7, 12), (2, 1, 13, 5)])
def test_identity_at_zero(transform: Transform, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    out = transform(images, torch.zeros(shape[0], transform.size))
    assert out.shape == images.shape
    assert torch.allclose(out, images, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_memory_format_are_kept(dtype: torch.dtype) -> None:
    transform = Compose(Affine(), Color())
    images = torch.rand(2, 3, 8, 10).to(dtype).contiguous(memory_format=torch.channels_last)
    out = transform(images, torch.randn(2, transform.size))
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    plain = transform(images.contiguous(), torch.zeros(2, transform.size))
    assert plain.is_contiguous()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e30, 1e30), min_size=10, max_size=10))
def test_values_stay_in_their_ranges(numbers: list[float]) -> None:
    transform = Compose(Affine(), Color())
    values = transform.decode(torch.tensor([numbers[: transform.size]]))
    for parameter in transform.spec:
        value = float(values[parameter.name])
        width = parameter.high - parameter.low
        assert parameter.low - 1e-5 * width <= value <= parameter.high + 1e-5 * width


def test_normal_parameters_decode_to_the_uniform_distribution() -> None:
    transform = Affine()
    values = transform.decode(torch.randn(20_000, transform.size))
    quantiles = torch.linspace(0.05, 0.95, 19)
    for parameter in transform.spec:
        drawn, low, high = values[parameter.name], parameter.low, parameter.high
        if parameter.logarithmic:
            drawn, low, high = drawn.log(), math.log(low), math.log(high)
        share = (drawn - low) / (high - low)
        assert torch.allclose(share.quantile(quantiles), quantiles, atol=0.02)


@pytest.mark.parametrize(("name", "dx", "dy"), [("translation_x", 2, 0), ("translation_y", 0, 3)])
def test_positive_translation_moves_right_and_down(name: str, dx: int, dy: int) -> None:
    transform = Affine(translation=0.5)
    images = torch.zeros(1, 1, 9, 10, dtype=torch.float64)
    images[0, 0, 4, 5] = 1
    moved = transform(images, raw(transform, **{name: (dx / 10) or dy / 9}))
    assert float(moved[0, 0, 4 + dy, 5 + dx]) == pytest.approx(1, abs=1e-6)


def test_positive_rotation_is_clockwise() -> None:
    transform = Affine(rotation=120)
    images = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    images[0, 0, 4, 7] = 1  # right of the centre
    moved = transform(images, raw(transform, rotation=90.0))
    assert float(moved[0, 0, 7, 4]) == pytest.approx(1, abs=1e-6)  # below the centre


def test_scale_above_one_enlarges_and_shear_moves_lower_rows_right() -> None:
    transform = Affine(scale=3, shear=1.5)
    images = torch.zeros(1, 1, 13, 13, dtype=torch.float64)
    images[0, 0, 8, 6] = 1
    enlarged = transform(images, raw(transform, scale_y=2.0))
    assert float(enlarged[0, 0, 10, 6]) == pytest.approx(1, abs=1e-6)
    sheared = transform(images, raw(transform, shear=1.0))
    assert float(sheared[0, 0, 8, 8]) == pytest.approx(1, abs=1e-6)


def test_each_part_can_be_switched_off() -> None:
    parts = {"translation": 2, "rotation": 1, "scale": 2, "shear": 1}
    for name, size in parts.items():
        switched: dict[str, Any] = {name: None}
        assert Affine(**switched).size == 6 - size
        alone: dict[str, Any] = {other: None for other in parts if other != name}
        assert all(p.name.startswith(name) for p in Affine(**alone).spec)
    assert [p.name for p in GREY.spec] == ["brightness", "contrast"]


@pytest.mark.parametrize(
    ("transform", "channels"), [(Affine(), 1), (Color(), 3), (Compose(Affine(padding_mode="border"), Color()), 3)]
)
def test_gradients_match_finite_differences(transform: Transform, channels: int) -> None:
    images = smooth(2, channels, 7, 6, torch.float64).requires_grad_()
    u = (0.37 * torch.randn(2, transform.size, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, v: transform(i, v), (images, u), eps=1e-7, atol=1e-4)


def test_compose_of_spatial_stages_is_one_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = torch.nn.functional.grid_sample

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "grid_sample", counted)
    images = torch.rand(2, 1, 8, 8)
    for transform, gathers in ((Compose(Affine(), Affine(), GREY), 1), (Compose(Affine(), GREY, Affine()), 2)):
        calls.clear()
        transform(images, torch.randn(2, transform.size))
        assert len(calls) == gathers


def test_compose_equals_applying_in_turn_away_from_borders() -> None:
    first, second, third = Affine(scale=None), Affine(translation=None), Color()
    composed = Compose(first, second, third)
    images = smooth(3, 3, 96, 96, torch.float64)
    u = 0.15 * torch.randn(3, composed.size, dtype=torch.float64)
    a, b, c = u.split([first.size, second.size, third.size], dim=1)
    in_turn = third(second(first(images, a), b), c)
    inside = (slice(None), slice(None), slice(24, -24), slice(24, -24))
    assert torch.allclose(composed(images, u)[inside], in_turn[inside], atol=2e-3)
    names = [p.name for p in composed.spec]
    assert len(set(names)) == len(names) == composed.size


def test_colours_keep_the_grey_axis() -> None:
    transform = Color(brightness=None, contrast=None, saturation=2, hue=90)
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    grey = images.mean(1, keepdim=True).expand_as(images)
    u = torch.randn(2, transform.size, dtype=torch.float64)
    assert torch.allclose(transform(grey, u), grey)
    assert torch.allclose(transform(images, u).mean(1), images.mean(1))
    swapped = transform(images[:1], raw(Color(brightness=None, contrast=None, saturation=2, hue=150), hue=120.0))
    assert torch.isfinite(swapped).all()


def test_hue_by_a_third_of_a_turn_permutes_the_channels() -> None:
    transform = Color(brightness=None, contrast=None, saturation=None, hue=150)
    images = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    turned = transform(images, raw(transform, hue=120.0))
    assert torch.allclose(turned, images.roll(1, dims=1))


def test_contrast_is_about_mid_grey_and_brightness_adds() -> None:
    transform = Color(saturation=None, hue=None, contrast=2.5, brightness=0.3)
    images = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    assert torch.allclose(transform(images, raw(transform, contrast=2.0)), 0.5 + 2 * (images - 0.5))
    assert torch.allclose(transform(images, raw(transform, brightness=0.2)), images + 0.2)


def test_bad_constructions_and_calls_are_refused() -> None:
    off: dict[str, Any] = {"translation": None, "rotation": None, "scale": None, "shear": None}
    for make, words in (
        (lambda: Affine(rotation=-1), "rotation=-1"),
        (lambda: Affine(scale=0.9), "scale=0.9"),
        (lambda: Affine(**off), "switched off"),
        (lambda: Affine(padding_mode="wrap"), "padding_mode"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Color(contrast=1.0), "contrast"),
        (lambda: Compose(), "at least one"),
        (lambda: Compose(Affine(), Affine(padding_mode="border")), "padding"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    transform = Affine()
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        transform(torch.rand(8, 8), torch.zeros(1, 6))
    with pytest.raises(ValueError, match=r"\(B, 6\)"):
        transform(torch.rand(2, 1, 8, 8), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="equal in number"):
        transform(torch.rand(2, 1, 8, 8), torch.zeros(3, 6))
    with pytest.raises(ValueError, match="saturation=None, hue=None"):
        Color()(torch.rand(2, 1, 8, 8), torch.zeros(2, 4))


def test_a_spatial_transform_says_where_a_pixel_comes_from() -> None:
    transform: SpatialTransform = Affine()
    u = torch.randn(3, 6, dtype=torch.float64)
    values = transform.decode(u)
    matrix = transform.inverse_map(u, 20, 30)
    angle = torch.deg2rad(values["rotation"])
    for i in range(3):
        cos, sin = float(angle[i].cos()), float(angle[i].sin())
        scale = torch.diag(torch.stack((values["scale_x"][i], values["scale_y"][i])))
        shear = torch.tensor([[1, float(values["shear"][i])], [0, 1]], dtype=torch.float64)
        linear = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64) @ shear @ scale
        offset = torch.stack((values["translation_x"][i] * 30, values["translation_y"][i] * 20))
        forward = torch.eye(3, dtype=torch.float64)
        forward[:2, :2], forward[:2, 2] = linear, offset
        assert torch.allclose(matrix[i] @ forward, torch.eye(3, dtype=torch.float64), atol=1e-10)
