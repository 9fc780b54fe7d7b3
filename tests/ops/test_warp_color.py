"""`warp_color` against a loop over pixels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.ops import warp_color
from hard_aug.ops.warp_color import reference


def reflected(position: float, size: int) -> float:
    """Mirror at the outer edges of the outermost pixels, whose centres are at 0 and size - 1; then clamp to these."""
    while not -0.5 <= position <= size - 0.5:
        position = -1 - position if position < -0.5 else 2 * size - 1 - position
    return min(max(position, 0), size - 1)


def read(image: Tensor, x: float, y: float, padding_mode: str) -> Tensor:
    """Bilinear sample `(C,)` of `(C, H, W)` at a position in pixels from the upper left corner."""
    height, width = image.shape[-2:]
    x, y = x - 0.5, y - 0.5
    if padding_mode == "border":
        x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    elif padding_mode == "reflection":
        x, y = reflected(x, width), reflected(y, height)
    total = torch.zeros(image.shape[0], dtype=image.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            weight = (1 - abs(x - column)) * (1 - abs(y - row))
            if 0 <= row < height and 0 <= column < width:
                total += weight * image[:, row, column]
    return total


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("channels", [1, 3])
def test_against_a_loop(padding_mode: str, channels: int) -> None:
    batch, height, width = 2, 5, 7
    images = torch.rand(batch, channels, height, width, dtype=torch.float64)
    inverse_map = torch.eye(3, dtype=torch.float64).repeat(batch, 1, 1)
    inverse_map[:, :2] += 0.4 * torch.randn(batch, 2, 3, dtype=torch.float64)
    color = torch.randn(batch, channels, channels + 1, dtype=torch.float64)
    out = warp_color(images, inverse_map=inverse_map, color_matrix=color, padding_mode=padding_mode)  # type: ignore[arg-type]  # from a list
    for b in range(batch):
        for row in range(height):
            for column in range(width):
                centred = torch.tensor([column + 0.5 - width / 2, row + 0.5 - height / 2, 1], dtype=torch.float64)
                source = inverse_map[b] @ centred
                sample = read(images[b], float(source[0]) + width / 2, float(source[1]) + height / 2, padding_mode)
                expected = color[b, :, :channels] @ sample + color[b, :, channels]
                assert torch.allclose(out[b, :, row, column], expected, atol=1e-9)


def test_nothing_to_do_returns_the_images() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert warp_color(images) is images
    empty = torch.rand(0, 3, 4, 4)
    assert warp_color(empty, inverse_map=torch.zeros(0, 3, 3)).shape == empty.shape


def test_autocast_does_not_lower_the_precision() -> None:
    images = torch.rand(2, 3, 8, 8)
    color = torch.eye(3, 4).repeat(2, 1, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = warp_color(images, color_matrix=color)
    assert torch.allclose(out, images, atol=1e-6)


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_match_finite_differences(padding_mode: str, channels: int) -> None:
    images = torch.rand(2, channels, 4, 5, dtype=torch.float64, requires_grad=True)
    inverse_map = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    inverse_map[:, :2] += 0.31 * torch.randn(2, 2, 3, dtype=torch.float64)
    color = torch.randn(2, channels, channels + 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda i, m, c: warp_color(i, inverse_map=m, color_matrix=c, padding_mode=padding_mode),  # type: ignore[arg-type]  # from a list
        (images, inverse_map.requires_grad_(), color.requires_grad_()),
        eps=1e-7,
        atol=1e-5,
    )


@pytest.mark.parametrize("wide", ["images", "inverse_map", "color_matrix"])
def test_any_wide_argument_makes_the_arithmetic_wide(wide: str) -> None:
    inverse_map = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    inverse_map[:, 0, 2] = 0.25
    arguments = {
        "images": torch.rand(2, 3, 6, 6, dtype=torch.float64).float().double(),
        "inverse_map": inverse_map,
        "color_matrix": torch.randn(2, 3, 4, dtype=torch.float64).float().double(),
    }
    expected = warp_color(**arguments)  # type: ignore[arg-type]  # by name
    mixed = {name: value if name == wide else value.float() for name, value in arguments.items()}
    found = warp_color(**mixed)  # type: ignore[arg-type]  # by name
    assert found.dtype == mixed["images"].dtype
    assert torch.equal(found, expected.to(found.dtype))


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_the_identity_is_exact_at_powers_of_two(size: int) -> None:
    images = torch.rand(2, 1, size, size)
    identity = torch.eye(3).expand(2, 3, 3)
    assert torch.equal(warp_color(images, inverse_map=identity), images)
    assert torch.equal(warp_color(images, inverse_map=identity, projective=True), images)
    turn = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]).expand(2, 3, 3)
    assert torch.equal(warp_color(images, inverse_map=turn), images.rot90(1, (2, 3)))


def test_elsewhere_the_identity_rounds() -> None:
    images = torch.rand(1, 1, 27, 28)
    assert torch.allclose(warp_color(images, inverse_map=torch.eye(3)[None]), images, atol=1e-5)


def test_gradients_of_mixing_and_normalised_outputs_match_finite_differences() -> None:
    images, partner = (torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    inverse_map = torch.eye(3, dtype=torch.float64) + 0.1 * torch.randn(2, 3, 3, dtype=torch.float64)
    inverse_map[:, 2, :2] /= 20
    displacement = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    weight = torch.rand(2, dtype=torch.float64)
    normalization = torch.rand(2, 2, 3, dtype=torch.float64) + 0.5

    def outputs(*given: Tensor) -> tuple[Tensor, ...]:
        names = ("inverse_map", "displacement", "partner", "partner_weight")
        named = dict(zip(names, given[1:], strict=True))
        return reference.warp_color(given[0], normalization=normalization, projective=True, **named)

    leaves = (inverse_map.requires_grad_(), displacement.requires_grad_(), partner, weight.requires_grad_())
    assert torch.autograd.gradcheck(outputs, (images, *leaves), eps=1e-7, atol=1e-5)


def test_a_clamp_lets_the_gradient_pass() -> None:
    images = torch.rand(1, 1, 4, 4)
    color = torch.tensor([[[3.0, -1.0]]], requires_grad=True)
    out = warp_color(images, color_matrix=color, clamp=True)
    assert float(out.detach().min()) == 0
    assert float(out.detach().max()) == 1
    (gradient,) = torch.autograd.grad(out.sum(), color)
    assert torch.allclose(gradient, torch.stack((images.sum(), torch.tensor(16.0)))[None, None])


IMAGES = torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"images": IMAGES.numpy()}, TypeError, "expected a torch.Tensor, got ndarray"),
        ({"images": IMAGES[0]}, ValueError, r"expected shape \(B, C, H, W\)"),
        ({"images": IMAGES.long()}, TypeError, "torch.int64: expected floating point, or torch.uint8"),
        ({"inverse_map": torch.eye(3)}, ValueError, r"inverse_map: expected shape \(2, 3, 3\)"),
        ({"inverse_map": torch.zeros(3, 3, 3)}, ValueError, r"inverse_map: expected shape \(2, 3, 3\)"),
        ({"inverse_map": torch.zeros(2, 2, 3)}, ValueError, r"got \(2, 2, 3\)"),
        ({"inverse_map": torch.zeros(2, 3, 3).long()}, TypeError, r"use inverse_map.float\(\)"),
        ({"inverse_map": [1.0]}, TypeError, "inverse_map is list"),
        ({"inverse_map": torch.zeros(2, 3, 3, device="meta")}, ValueError, "expected one device"),
        ({"color_matrix": torch.zeros(2, 3, 3)}, ValueError, r"color_matrix: expected shape \(2, 3, 4\)"),
        ({"displacement": torch.zeros(2, 3, 4, 4)}, ValueError, r"displacement: expected shape \(2, 2, h, w\)"),
        ({"displacement": torch.zeros(2, 2, 3, 4)}, ValueError, "at least 4 x 4 points"),
        ({"displacement": torch.zeros(2, 2, 4, 9)}, ValueError, "larger than the images"),
        ({"padding_mode": "wrap"}, ValueError, "padding_mode='wrap'"),
        ({"dtype": torch.uint8}, TypeError, "expected a floating-point torch.dtype"),
        ({"dtype": "float16"}, TypeError, "expected a floating-point torch.dtype"),
        ({"backend": "numpy"}, ValueError, "backend='numpy'"),
    ],
)
def test_bad_input(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        warp_color(given.pop("images", IMAGES), **given)
