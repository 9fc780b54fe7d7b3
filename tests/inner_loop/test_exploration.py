"""`Exploration`: settings, the fraction of uniform draws, and how they are mixed in."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hard_aug import Exploration
from hard_aug.inner_loop.exploration import MAX_UNIFORM_FRACTION, TOP_K, Sample, mix_uniform


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"entropy_weight": -1.0}, r"entropy_weight=-1\.0: expected a number >= 0"),
        ({"entropy_weight": math.inf}, "entropy_weight=inf"),
        ({"entropy_weight": math.nan}, "entropy_weight=nan"),
        ({"min_variance": 0.0}, r"min_variance=0\.0: expected a number between 0 \(a point\) and 1"),
        ({"min_variance": 1.0}, r"min_variance=1\.0.*or None"),
        ({"min_variance": math.nan}, "min_variance=nan"),
        ({"min_uniform_fraction": -0.1}, r"min_uniform_fraction=-0\.1: expected a fraction in \[0, 0\.95\]"),
        ({"min_uniform_fraction": 1.0}, r"min_uniform_fraction=1\.0.*would never learn"),
        ({"min_uniform_fraction": math.nan}, "min_uniform_fraction=nan"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Exploration(**settings)


def test_the_repr_and_equality_are_those_of_the_settings() -> None:
    assert repr(Exploration()) == "Exploration(entropy_weight=0.08, min_variance=0.15, min_uniform_fraction=0.0)"
    assert Exploration(min_variance=None) == Exploration(min_variance=None) != Exploration()


@pytest.mark.parametrize(
    ("exploration", "active"),
    [
        (Exploration(), True),
        (Exploration(min_variance=None), False),
        (Exploration(min_variance=None, min_uniform_fraction=0.1), True),
    ],
)
def test_when_uniform_draws_are_ever_mixed_in(exploration: Exploration, active: bool) -> None:
    assert exploration.is_active == active


@pytest.mark.parametrize(
    ("variance", "expected"),
    [(0.0, MAX_UNIFORM_FRACTION), (0.1, 1 - 0.5**4), (0.15, 1 - 0.75**4), (0.2, 0.0), (0.9, 0.0), (math.inf, 0.0)],
)
def test_the_fraction_of_a_variance(variance: float, expected: float) -> None:
    found = Exploration(min_variance=0.2).uniform_fraction(torch.full((3,), variance))
    assert float(found) == pytest.approx(expected, abs=1e-6)
    least = Exploration(min_variance=0.2, min_uniform_fraction=0.3).uniform_fraction(torch.full((3,), variance))
    assert float(least) == pytest.approx(max(expected, 0.3), abs=1e-6)
    none = Exploration(min_variance=None, min_uniform_fraction=0.3).uniform_fraction(torch.full((3,), variance))
    assert float(none) == pytest.approx(0.3)


def test_only_the_widest_parameters_count() -> None:
    wide = torch.cat((torch.zeros(50), torch.full((TOP_K,), 0.3)))
    assert float(Exploration(min_variance=0.2).uniform_fraction(wide)) == 0
    one = torch.cat((torch.zeros(5), torch.ones(1)))  # their mean is 1 / 6
    assert float(Exploration(min_variance=0.16).uniform_fraction(one)) == 0
    assert float(Exploration(min_variance=0.18).uniform_fraction(one)) > 0


def test_a_fraction_of_zero_draws_nothing() -> None:
    u, generator = torch.randn(5, 3), torch.Generator().manual_seed(0)
    before = generator.get_state()
    sample = mix_uniform(u, torch.tensor(0.0), generator)
    assert sample.u is u
    assert sample.on_policy is None
    assert torch.equal(generator.get_state(), before)


def test_a_fraction_of_the_rows_is_replaced() -> None:
    policy = torch.full((20_000, 2), 7.0, requires_grad=True)
    sample = mix_uniform(policy, torch.tensor(0.25), torch.Generator().manual_seed(0))
    assert sample.on_policy is not None
    own = sample.on_policy
    assert float((~own).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert bool((sample.u[own] == 7).all())
    uniform = sample.u[~own].detach()
    assert float(uniform.mean()) == pytest.approx(0, abs=0.05)
    assert float(uniform.std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.75])
def test_the_expected_gradient_does_not_depend_on_the_fraction(fraction: float) -> None:
    """Gradients of the policy's own draws are divided by their fraction."""
    shift = torch.zeros(1, requires_grad=True)
    u = torch.randn(50_000, 1) + shift
    sample = mix_uniform(u, torch.tensor(fraction), torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((3 * sample.u).mean(), shift)
    assert float(gradient) == pytest.approx(3, rel=0.02)


def test_masked_sums() -> None:
    values = torch.tensor([1.0, 10.0, 100.0])
    total, rows = Sample(torch.zeros(3, 2)).masked_sum(values)
    assert (float(total), float(rows)) == (111, 3)
    total, rows = Sample(torch.zeros(3, 2), torch.tensor([True, False, True])).masked_sum(values)
    assert (float(total), float(rows)) == (101, 2)
