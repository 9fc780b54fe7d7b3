"""Affine against whole shifts, against kornia, at borders, on odd shapes, and row by row."""

from __future__ import annotations

import math

import kornia
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hard_aug.transforms import Affine

SHIFT = {"rotation": None, "scale": None, "shear": None}


def raw_shift(transform: Affine, dx: int, dy: int, width: int, height: int) -> Tensor:
    """`u` of a shift by whole pixels."""
    shares = torch.tensor([[dx / width, dy / height]], dtype=torch.float64) / transform.spec[0].high
    return torch.erfinv(shares) * math.sqrt(2)


def reflected(index: Tensor, size: int) -> Tensor:
    """About the edge: c b a | a b c | c b a."""
    index = torch.where(index < 0, -1 - index, index)
    return torch.where(index >= size, 2 * size - 1 - index, index)


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 2), (-3, 1), (4, -5), (0, 0)])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_shifts_by_whole_pixels_are_exact(dx: int, dy: int, padding_mode: str) -> None:
    height, width = 11, 14
    transform = Affine(translation=0.6, padding_mode=padding_mode, **SHIFT)  # type: ignore[arg-type]  # from a list
    images = torch.rand(1, 2, height, width, dtype=torch.float64)
    found = transform(images, raw_shift(transform, dx, dy, width, height))
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
    angles = torch.tensor([[0.5], [0.25], [0.75]], dtype=torch.float64)  # shares of the range
    maps = transform.inverse_map(torch.erfinv(angles) * math.sqrt(2), 8, 8)
    assert torch.allclose(maps[0] @ maps[1], maps[2], atol=1e-12)
    assert torch.allclose(torch.linalg.det(maps), torch.ones(3, dtype=torch.float64))
