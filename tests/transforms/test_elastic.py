"""Elastic: its spline against the plain basis, its bounds, and its place in a gather."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hard_aug.ops import warp_color
from hard_aug.ops.warp_color.reference import control_to_pixels
from hard_aug.transforms import Affine, Color, Compose, Elastic


def basis(t: float) -> list[float]:
    """The four uniform cubic B-spline weights at `t` in [0, 1) of a segment."""
    return [(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6]


def test_the_field_is_the_uniform_cubic_spline() -> None:
    control = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    field = control_to_pixels(control, 9, 11)
    assert field.shape == (2, 2, 9, 11)
    for row in range(9):
        for column in range(11):
            y, x = (row + 0.5) * 2 / 9, (column + 0.5) * 3 / 11
            weights = torch.zeros(5, 6, dtype=torch.float64)
            for i, wy in enumerate(basis(y - math.floor(y))):
                for j, wx in enumerate(basis(x - math.floor(x))):
                    weights[math.floor(y) + i, math.floor(x) + j] = wy * wx
            assert torch.allclose(field[..., row, column], (control * weights).sum((-1, -2)), atol=1e-12)


def test_no_pixel_moves_further_than_the_magnitude() -> None:
    transform = Elastic(magnitude=0.2, control=(4, 7))
    displacement = transform.displacement(20 * torch.randn(30, transform.size), 20, 10)
    field = control_to_pixels(displacement, 20, 10)
    assert float(field[:, 0].abs().max()) <= 2 + 1e-5
    assert float(field[:, 1].abs().max()) <= 4 + 1e-5
    assert float(field.abs().max()) > 1


def test_all_points_alike_are_a_translation() -> None:
    elastic, affine = Elastic(magnitude=0.25), Affine(translation=0.25, rotation=None, scale=None, shear=None)
    images = torch.rand(3, 1, 12, 16)
    shift = torch.randn(3, 2)
    found = elastic(images, shift.repeat_interleave(25, dim=1))
    assert torch.allclose(found, affine(images, shift), atol=1e-5)


def test_identity_and_gradients() -> None:
    transform = Elastic(padding_mode="border", control=4)
    images = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    u = 0.5 * torch.randn(1, transform.size, dtype=torch.float64)
    assert torch.allclose(transform(images, 0 * u), images, atol=1e-9)
    assert torch.autograd.gradcheck(transform, (images, u.requires_grad_()))
    assert transform(images[:0], u[:0]).shape == (0, 2, 5, 6)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    gathers: list[int] = []
    sample = torch.nn.functional.grid_sample

    def counting(*arguments: Tensor, **settings: object) -> Tensor:
        gathers.append(1)
        return sample(*arguments, **settings)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(torch.nn.functional, "grid_sample", counting)
    return gathers


def test_it_shares_the_gather_of_the_maps_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    affine, elastic, color = Affine(), Elastic(), Color(saturation=None, hue=None)
    together = Compose(affine, elastic, color)
    images, u = torch.rand(2, 1, 14, 14), 0.4 * torch.randn(2, together.size)
    parts = u.split([affine.size, elastic.size, color.size], dim=1)
    expected = warp_color(
        images,
        inverse_map=affine.inverse_map(parts[0], 14, 14),
        displacement=elastic.displacement(parts[1], 14, 14),
        color_matrix=color.color_matrix(parts[2], 1),
    )
    gathers = counted(monkeypatch)
    assert torch.equal(together(images, u), expected)
    assert len(gathers) == 1


def test_displaced_positions_are_mapped_after_the_displacement() -> None:
    """`input = M(q + d(q))`: a displacement of 2 pixels under a map that doubles is one of 4."""
    images = torch.rand(1, 1, 16, 16)
    double = torch.diag(torch.tensor([2.0, 2.0, 1.0]))[None]
    displacement = torch.zeros(1, 2, 4, 4)
    displacement[:, 0] = 2.0
    moved = double.clone()
    moved[:, 0, 2] = 4.0
    found = warp_color(images, inverse_map=double, displacement=displacement)
    assert torch.allclose(found, warp_color(images, inverse_map=moved), atol=1e-5)


def test_maps_after_it_start_a_gather_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = Compose(Elastic(), Affine())
    images, u = torch.rand(2, 1, 14, 14), 0.4 * torch.randn(2, apart.size)
    expected = Affine()(Elastic()(images, u[:, :50]), u[:, 50:])
    gathers = counted(monkeypatch)
    assert torch.equal(apart(images, u), expected)
    assert len(gathers) == 2


def test_errors() -> None:
    with pytest.raises(ValueError, match="expected a positive number"):
        Elastic(magnitude=0)
    with pytest.raises(ValueError, match="at least 4 points on each axis"):
        Elastic(control=(4, 3))
    with pytest.raises(TypeError, match="expected an integer, or a pair"):
        Elastic(control=4.5)  # type: ignore[arg-type]  # the mistake that is tested
    with pytest.raises(ValueError, match="expected 'zeros'"):
        Elastic(padding_mode="wrap")  # type: ignore[arg-type]  # the mistake that is tested
    transform = Elastic(control=9)
    with pytest.raises(ValueError, match="at least 9 x 9 pixels, got 8 x 12"):
        transform(torch.rand(1, 1, 8, 12), torch.zeros(1, transform.size))
    with pytest.raises(ValueError, match="different padding"):
        Compose(Affine(padding_mode="border"), Elastic())


def test_repr_shows_the_settings() -> None:
    assert repr(Elastic(control=4)) == ("Elastic(magnitude=0.1, control=(4, 4), padding_mode='zeros')")
