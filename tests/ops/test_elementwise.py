"""The straight-through clamp, and the map from normal to uniform values."""

from __future__ import annotations

import pytest
import torch

from hard_aug.ops.elementwise import at_fraction, at_least_float32, clamp_with_gradient, scale_sides, unit_interval


def test_the_clamp_passes_the_gradient_at_any_order() -> None:
    images = torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.7], requires_grad=True)
    clamped = clamp_with_gradient(images)
    assert torch.equal(clamped.detach(), torch.tensor([0.0, 0.0, 0.3, 1.0, 1.0]))
    (gradient,) = torch.autograd.grad(clamped.square().sum(), images, create_graph=True)
    assert torch.equal(gradient.detach(), 2 * clamped.detach())
    assert torch.equal(torch.autograd.grad(gradient.sum(), images)[0], torch.full((5,), 2.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_clamp_is_exact_in_every_precision(dtype: torch.dtype) -> None:
    images = (3 * torch.randn(4000)).to(dtype)
    assert torch.equal(clamp_with_gradient(images), images.clamp(0, 1))


def test_normal_values_become_uniform() -> None:
    u = torch.randn(20_000, dtype=torch.float64)
    values = unit_interval(u).sort().values
    assert torch.allclose(values, torch.linspace(-1, 1, 20_000, dtype=torch.float64), atol=0.03)
    assert float(unit_interval(torch.zeros(1))) == 0
    expected = 2 * torch.distributions.Normal(0.0, 1.0).cdf(u) - 1
    assert torch.allclose(unit_interval(u), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_decoded_in_float32(dtype: torch.dtype) -> None:
    u = (3 * torch.randn(1000)).to(dtype)
    assert torch.equal(unit_interval(u), unit_interval(u.float()))
    assert at_least_float32(u).dtype == torch.float32
    assert at_least_float32(u.double()).dtype == torch.float64


def test_the_inverse_of_the_unit_interval_is_finite_at_the_ends() -> None:
    fraction = torch.linspace(-1, 1, 9)
    assert torch.allclose(unit_interval(at_fraction(fraction)), fraction, atol=2e-6)
    assert at_fraction(fraction).isfinite().all()


def test_each_side_of_the_identity_is_scaled_by_its_own_reach() -> None:
    fraction = torch.tensor([[-1.0, 0.5], [1.0, 0.0]])
    assert scale_sides(fraction, torch.tensor([[0.25, 0.75], [0.1, 0.2]])).tolist() == [
        [-0.25, pytest.approx(0.1)],
        [0.75, 0.0],
    ]
