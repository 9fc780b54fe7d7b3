"""Perspective: against a pinhole camera written out for single points, and its directions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hard_aug.transforms import Affine, Compose, Perspective
from tests.helpers.transform_parts import u_of


def seen(x: float, y: float, tilt_x: float, tilt_y: float, distance: float) -> tuple[float, float]:
    """Where the camera sees the plane's point `(x, y)`: turn about the horizontal, then the vertical axis."""
    a, b = math.radians(tilt_x), math.radians(tilt_y)
    y, z = y * math.cos(a), -y * math.sin(a)
    x, z = x * math.cos(b) - z * math.sin(b), x * math.sin(b) + z * math.cos(b)
    return distance * x / (distance + z), distance * y / (distance + z)


@pytest.mark.parametrize(("tilt_x", "tilt_y"), [(20.0, 0.0), (0.0, -25.0), (15.0, 28.0)])
def test_the_map_leads_back_from_what_a_camera_sees(tilt_x: float, tilt_y: float) -> None:
    transform = Perspective(tilt=30, focal_length=1.5)
    inverse_map = transform.inverse_map(u_of(transform, tilt_x=tilt_x, tilt_y=tilt_y), 20, 30)[0]
    for x, y in [(0.0, 0.0), (10.0, -7.0), (-15.0, 10.0)]:
        back = inverse_map @ torch.tensor([*seen(x, y, tilt_x, tilt_y, 45.0), 1.0], dtype=torch.float64)
        assert float(back[2]) > 0
        assert (back[:2] / back[2]).tolist() == pytest.approx([x, y], abs=1e-9)


def extent(image: Tensor, row: int) -> int:
    return int((image[row] > 0.5).sum())


def test_directions() -> None:
    transform = Perspective(tilt=40)
    board = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    board[..., 8:33, 8:33] = 1
    up = transform(board, u_of(transform, tilt_x=30))[0, 0]
    assert extent(up, 12) < extent(up, 28)
    right = transform(board, u_of(transform, tilt_y=30))[0, 0].T
    assert extent(right, 28) < extent(right, 12)


def test_no_tilt_is_the_identity() -> None:
    images = torch.rand(2, 3, 17, 24)
    transform = Perspective()
    assert torch.equal(transform.inverse_map(torch.zeros(2, 2), 17, 24), torch.eye(3).expand(2, 3, 3))
    assert torch.allclose(transform(images, torch.zeros(2, 2)), images, atol=1e-4)
    assert bool(transform(images, 50 * torch.randn(2, 2)).isfinite().all())


def test_gradients() -> None:
    images = torch.rand(2, 1, 6, 7, dtype=torch.float64, requires_grad=True)
    u = 0.5 * torch.randn(2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(Perspective(padding_mode="border"), (images, u.requires_grad_()))


@pytest.mark.parametrize("stages", [(Affine(), Perspective()), (Perspective(), Affine())])
def test_joined_with_a_map_it_is_still_one_gather(
    stages: tuple[Affine | Perspective, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    axis = torch.linspace(-1, 1, 64, dtype=torch.float64)
    images = torch.exp(-6 * (axis[:, None] ** 2 + (axis - 0.1) ** 2))[None, None]
    both = Compose(*stages)
    u = 0.3 * torch.randn(1, both.size, dtype=torch.float64)
    first, second = u.split([stage.size for stage in stages], dim=1)
    expected = stages[1](stages[0](images, first), second)
    gathers = []
    sample = torch.nn.functional.grid_sample
    monkeypatch.setattr(torch.nn.functional, "grid_sample", lambda *a, **k: gathers.append(1) or sample(*a, **k))
    assert torch.allclose(both(images, u)[..., 8:-8, 8:-8], expected[..., 8:-8, 8:-8], atol=5e-3)
    assert len(gathers) == 1


def test_what_lies_behind_the_viewer_is_outside() -> None:
    from hard_aug.ops import warp_color

    inverse_map = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0.5, 0, 1]]])  # the left half beyond x = -2 lies behind
    out = warp_color(torch.ones(1, 1, 8, 8), inverse_map=inverse_map, projective=True)
    assert bool(out.isfinite().all())
    assert float(out[..., :2].abs().max()) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tilt": 0}, r"tilt=0: expected degrees in \(0, 60\]"),
        ({"tilt": 70}, r"\(0, 60\]"),
        ({"focal_length": 0.4}, "would reach the camera; expected more than 0.5"),
        ({"padding_mode": "wrap"}, "expected 'zeros', 'border' or 'reflection'"),
    ],
)
def test_errors(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Perspective(**arguments)


def test_repr_shows_the_settings() -> None:
    assert repr(Perspective(tilt=20.0)) == "Perspective(tilt=20.0, focal_length=2.0, padding_mode='zeros')"
