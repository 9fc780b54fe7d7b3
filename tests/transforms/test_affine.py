"""Affine against whole shifts, against kornia, directions, at borders, on odd shapes, and row by row."""

from __future__ import annotations

import math
from typing import Any

import kornia
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hard_aug.transforms import Affine, SpatialTransform
from tests.helpers.transform_parts import u_of

SHIFT: dict[str, Any] = {"rotation": None, "scale": None, "shear": None}


def reflected(index: Tensor, size: int) -> Tensor:
    """About the edge: c b a | a b c | c b a."""
    index = torch.where(index < 0, -1 - index, index)
    return torch.where(index >= size, 2 * size - 1 - index, index)


def test_the_default_ranges() -> None:
    """A quarter of the image, 0.6 rad, a log-scale of 0.4, and a shear of 0.4."""
    ranges = {p.name: (p.low, p.high) for p in Affine().spec}
    scale = (math.exp(-0.4), math.exp(0.4))
    expected = {
        "translation_x": (-0.25, 0.25),
        "translation_y": (-0.25, 0.25),
        "rotation": (-math.degrees(0.6), math.degrees(0.6)),
        "scale_x": scale,
        "scale_y": scale,
        "shear": (-0.4, 0.4),
    }
    assert list(ranges) == list(expected)
    for name, found in ranges.items():
        assert found == pytest.approx(expected[name])


def test_repr_shows_the_settings() -> None:
    assert repr(Affine(rotation=30.0, scale=None, shear=None)) == (
        "Affine(translation=0.25, rotation=30.0, scale=None, shear=None, padding_mode='zeros')"
    )


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 2), (-3, 1), (4, -5), (0, 0)])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_shifts_by_whole_pixels_are_exact(dx: int, dy: int, padding_mode: str) -> None:
    height, width = 11, 14
    transform = Affine(translation=0.6, padding_mode=padding_mode, **SHIFT)  # type: ignore[arg-type]  # from a list
    images = torch.rand(1, 2, height, width, dtype=torch.float64)
    found = transform(images, u_of(transform, translation_x=dx / width, translation_y=dy / height))
    rows, columns = torch.arange(height) - dy, torch.arange(width) - dx
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
    if padding_mode == "reflection":
        rows, columns = reflected(rows, height), reflected(columns, width)
    expected = images[:, :, rows.clamp(0, height - 1)][:, :, :, columns.clamp(0, width - 1)]
    if padding_mode == "zeros":
        expected = expected * inside
    assert torch.allclose(found, expected, atol=1e-9)


def test_warps_are_those_of_kornia() -> None:
    transform = Affine()
    height, width = 17, 24
    images = torch.rand(4, 2, height, width, dtype=torch.float64)
    u = torch.randn(4, transform.size, dtype=torch.float64)
    to_centre = torch.eye(3, dtype=torch.float64)
    to_centre[:2, 2] = -torch.tensor([(width - 1) / 2, (height - 1) / 2])
    forward = to_centre.inverse() @ transform.inverse_map(u, height, width).inverse() @ to_centre
    expected = kornia.geometry.transform.warp_affine(images, forward[:, :2], (height, width), align_corners=True)
    assert torch.allclose(transform(images, u), expected, atol=1e-8)


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_bounded_transforms_stay_in_range(padding_mode: str) -> None:
    transform = Affine(padding_mode=padding_mode)  # type: ignore[arg-type]  # from a list
    assert transform.bounded
    out = transform(torch.rand(64, 1, 16, 16).round(), 2 * torch.randn(64, transform.size))
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1 + 1e-6
    white = transform(torch.ones(64, 1, 16, 16), 2 * torch.randn(64, transform.size))
    assert (padding_mode == "zeros") == bool((white < 0.5).any())


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 33), width=st.integers(1, 33), batch=st.integers(0, 3), channels=st.sampled_from([1, 2, 3, 5])
)
def test_identity_at_any_size(height: int, width: int, batch: int, channels: int) -> None:
    transform = Affine()
    images = torch.rand(batch, channels, height, width)
    assert torch.allclose(transform(images, torch.zeros(batch, transform.size)), images, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=6, max_size=6), st.integers(1, 9), st.integers(1, 9))
def test_images_stay_finite_and_in_range_for_any_parameters(numbers: list[float], height: int, width: int) -> None:
    images = torch.rand(1, 1, height, width, requires_grad=True)
    u = torch.tensor([numbers], requires_grad=True)
    out = Affine()(images, u)
    assert 0 <= float(out.detach().min()) <= float(out.detach().max()) <= 1 + 1e-6
    gradients = torch.autograd.grad(out.square().sum(), [images, u])
    assert all(bool(g.isfinite().all()) for g in gradients)


def test_rows_are_independent() -> None:
    transform = Affine()
    images = torch.rand(5, 1, 10, 8)
    u = torch.randn(5, transform.size)
    u[2] = 0
    together = transform(images, u)
    for row in range(5):
        assert torch.allclose(together[row : row + 1], transform(images[row : row + 1], u[row : row + 1]), atol=1e-6)
    assert torch.allclose(together[2], images[2], atol=1e-4)


def test_the_gradient_of_identity_rows_is_that_of_the_identity() -> None:
    transform = Affine()
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    u = torch.stack((torch.zeros(transform.size), torch.randn(transform.size))).requires_grad_()
    weights = torch.rand(1, 8, 8)
    pixels, parameters = torch.autograd.grad((transform(images, u)[0] * weights).sum(), [images, u])
    assert torch.allclose(pixels[0], weights, atol=1e-4)
    assert torch.equal(pixels[1], torch.zeros(1, 8, 8))
    assert bool(parameters.isfinite().all())
    assert torch.equal(parameters[1], torch.zeros(transform.size))


def test_strided_images_are_as_good_as_any() -> None:
    transform = Affine()
    images, u = torch.rand(2, 3, 16, 12), torch.randn(2, transform.size)
    for strided in (images[:, :, ::2], images.mT, images[:, :1].expand(2, 3, 16, 12), images.flip(3)):
        assert torch.equal(transform(strided, u), transform(strided.contiguous(), u))


def test_inputs_are_left_alone() -> None:
    transform = Affine()
    images, u = torch.rand(2, 1, 8, 8), torch.randn(2, transform.size)
    kept = images.clone(), u.clone()
    transform(images, u).mul_(0)
    assert torch.equal(images, kept[0])
    assert torch.equal(u, kept[1])


def test_turning_twice_is_turning_by_the_sum() -> None:
    transform = Affine(translation=None, rotation=90.0, scale=None, shear=None)
    angles = torch.tensor([[0.5], [0.25], [0.75]], dtype=torch.float64)  # fractions of the range
    maps = transform.inverse_map(torch.erfinv(angles) * math.sqrt(2), 8, 8)
    assert torch.allclose(maps[0] @ maps[1], maps[2], atol=1e-12)
    assert torch.allclose(torch.linalg.det(maps), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(("name", "dx", "dy"), [("translation_x", 2, 0), ("translation_y", 0, 3)])
def test_positive_translation_moves_right_and_down(name: str, dx: int, dy: int) -> None:
    transform = Affine(translation=0.5)
    images = torch.zeros(1, 1, 9, 10, dtype=torch.float64)
    images[0, 0, 4, 5] = 1
    moved = transform(images, u_of(transform, **{name: (dx / 10) or dy / 9}))
    assert float(moved[0, 0, 4 + dy, 5 + dx]) == pytest.approx(1, abs=1e-6)


def test_positive_rotation_is_clockwise() -> None:
    transform = Affine(rotation=120)
    images = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    images[0, 0, 4, 7] = 1  # right of the centre
    moved = transform(images, u_of(transform, rotation=90.0))
    assert float(moved[0, 0, 7, 4]) == pytest.approx(1, abs=1e-6)  # below the centre


def test_scale_above_one_enlarges_and_shear_moves_lower_rows_right() -> None:
    transform = Affine(scale=3, shear=1.5)
    images = torch.zeros(1, 1, 13, 13, dtype=torch.float64)
    images[0, 0, 8, 6] = 1
    enlarged = transform(images, u_of(transform, scale_y=2.0))
    assert float(enlarged[0, 0, 10, 6]) == pytest.approx(1, abs=1e-6)
    sheared = transform(images, u_of(transform, shear=1.0))
    assert float(sheared[0, 0, 8, 8]) == pytest.approx(1, abs=1e-6)


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
