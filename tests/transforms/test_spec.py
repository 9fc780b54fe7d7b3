"""Parameters and the squash: ranges, the uniform distribution, folding, and the plan of a stage."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hard_aug.ops.compose import compose_map
from hard_aug.transforms import Affine, Color, Compose, Parameter
from hard_aug.transforms.spec import make_plan, squash


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
        fraction = (drawn - low) / (high - low)
        assert torch.allclose(fraction.quantile(quantiles), quantiles, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_decoded_in_float32(dtype: torch.dtype) -> None:
    transform = Affine()
    u = torch.randn(5, transform.size).to(dtype)
    expected = transform.decode(u.float())
    for name, value in transform.decode(u).items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name])


def test_the_squash_by_hand() -> None:
    """`u = 0.6744898` is the upper quartile of the normal distribution, so `2 Phi(u) - 1 = 1/2`."""
    spec = (
        Parameter("plain", -2.0, 6.0, 2.0, "unit"),
        Parameter("factor", 0.25, 4.0, 1.0, "factor", logarithmic=True),
        Parameter("strength", 1.0, 3.0, 1.0, "strength", one_sided=True),
    )
    u = torch.tensor([[0.0] * 3, [0.6744897501960817] * 3, [-0.6744897501960817] * 3], dtype=torch.float64)
    values = squash(u, spec)
    assert values["plain"].tolist() == pytest.approx([2, 4, 0])
    assert values["factor"].tolist() == pytest.approx([1, 2, 0.5])
    assert values["strength"].tolist() == pytest.approx([1, 2, 2])


def test_folded_values_are_uniform_too() -> None:
    spec = (Parameter("strength", 1.0, 3.0, 1.0, "strength", one_sided=True),)
    values = squash(torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)), spec)["strength"]
    quantiles = torch.linspace(0.05, 0.95, 19)
    assert torch.allclose((values.quantile(quantiles) - 1) / 2, quantiles, atol=0.02)


def test_a_plan_decodes_as_the_squash_does() -> None:
    spec = (
        Parameter("rotation", -40.0, 40.0, 0.0, "degrees"),
        Parameter("scale_x", 0.5, 2.0, 1.0, "factor", logarithmic=True),
    )
    u = torch.randn(4, 2, dtype=torch.float64)
    values = squash(u, spec)
    found = compose_map(u, make_plan("affine", spec), height=8, width=8)
    for row in range(4):
        angle, scale = math.radians(float(values["rotation"][row])), float(values["scale_x"][row])
        forward = torch.eye(3, dtype=torch.float64)
        forward[0, 0], forward[0, 1] = math.cos(angle) * scale, -math.sin(angle)
        forward[1, 0], forward[1, 1] = math.sin(angle) * scale, math.cos(angle)
        assert torch.allclose(found[row] @ forward, torch.eye(3, dtype=torch.float64), atol=1e-12)
