"""Invariance costs: the teacher divergence, fixed weights, a hinge, and the dual ascent of a constraint."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hard_aug.objectives import Constraint, Hinge, KeepRate, Penalty, teacher_divergence
from hard_aug.objectives.invariance import MIN_MULTIPLIER
from tests.helpers.defaults import defaults

#: A fraction of kept predictions, which all but `KeepRate` ignore.
KEPT = torch.tensor(0.5)


def test_teacher_divergence_is_at_temperature_one() -> None:
    reference, hard = torch.randn(2, 6, 5)
    expected = F.kl_div(hard.log_softmax(1), reference.log_softmax(1), log_target=True, reduction="none").sum(1)
    assert torch.allclose(teacher_divergence(reference_logits=reference, hard_logits=hard), expected, atol=1e-6)


def test_constraint_follows_the_mean_divergence() -> None:
    constraint = Constraint(0.1, rate=0.5, decay=0.5, initial=1.0, maximum=3.0)
    constraint.update(torch.tensor(0.3), KEPT)  # the moving mean goes to 0.2
    assert float(constraint.multiplier) == pytest.approx(1.5)
    for _ in range(20):
        constraint.update(torch.tensor(5.0), KEPT)
    assert float(constraint.multiplier) == 3.0
    for _ in range(60):
        constraint.update(torch.tensor(0.0), KEPT)
    assert float(constraint.multiplier) == 0.0
    penalty = Penalty(2.0)
    penalty.update(torch.tensor(9.0), KEPT)
    assert float(penalty.multiplier) == 2.0


def test_a_hinge_is_free_up_to_its_epsilon() -> None:
    divergence = torch.tensor([0.0, 0.2, 0.5])
    assert torch.allclose(Hinge(0.2, weight=3.0).cost(divergence), torch.tensor([0.0, 0.0, 0.9]))
    assert torch.equal(Hinge(0.0, weight=3.0).cost(divergence), 3 * divergence)


@pytest.mark.parametrize("invariance", [Penalty(0.0), Hinge(weight=0.0), Constraint(initial=0.0)])
def test_a_multiplier_of_zero_is_no_cost_of_an_infinite_divergence(invariance: Any) -> None:
    divergence = torch.tensor([0.5, math.inf], requires_grad=True)
    cost = invariance.cost(divergence)
    assert torch.equal(cost, torch.zeros(2))
    assert torch.equal(torch.autograd.grad(cost.sum(), divergence)[0], torch.zeros(2))


@pytest.mark.parametrize("mask", [-math.inf, -1e9, torch.finfo(torch.float32).min])
def test_the_cost_of_logits_with_a_masked_class_is_that_without(mask: float) -> None:
    reference, hard = torch.randn(2, 6, 5)
    expected = teacher_divergence(reference_logits=reference[:, :4], hard_logits=hard[:, :4])
    reference[:, 4] = hard[:, 4] = mask
    leaf = hard.requires_grad_()
    for invariance in (Penalty(2.0), Hinge(0.0, weight=2.0), Constraint(initial=2.0), KeepRate(initial=2.0)):
        cost = invariance.cost(teacher_divergence(reference_logits=reference, hard_logits=leaf))
        assert torch.allclose(cost, 2 * expected, rtol=1e-4, atol=1e-6)
        assert bool(torch.autograd.grad(cost.sum(), leaf)[0].isfinite().all())


@pytest.mark.parametrize("make", [Penalty, Hinge, Constraint, KeepRate])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_multipliers_are_float32(make: Any, dtype: torch.dtype) -> None:
    expected = make()
    with defaults(dtype, "meta"):
        found = make()
    nn.ModuleList([found]).to(dtype)
    for invariance in (expected, found):
        for _ in range(100):
            invariance.update(torch.tensor(0.1003), torch.tensor(0.8997))  # a step that half precision rounds off
    assert torch.equal(found.multiplier, expected.multiplier)
    assert {buffer.dtype for buffer in found.buffers()} == {torch.float32}


def test_settings_of_numpy() -> None:
    constraint = Constraint(np.float32(0.25), rate=np.float32(0.5), decay=np.float16(0.5), initial=np.int64(2))
    assert repr(constraint) == "Constraint(epsilon=0.25, rate=0.5, decay=0.5, initial=2.0, maximum=100.0)"
    assert repr(Hinge(np.float32(0.25), weight=np.int64(2))) == repr(Hinge(0.25, weight=2.0))


def test_costs_are_differentiable() -> None:
    divergence = torch.tensor([0.05, 0.3], requires_grad=True)
    for invariance, expected in (
        (Penalty(2.0), [2, 2]),
        (Hinge(0.1, weight=3.0), [0, 3]),
        (Constraint(initial=4.0), [4, 4]),
        (KeepRate(initial=4.0), [4, 4]),
    ):
        (gradient,) = torch.autograd.grad(invariance.cost(divergence).sum(), divergence)
        assert gradient.tolist() == expected


@pytest.mark.parametrize("make", [Constraint, KeepRate])
def test_a_multiplier_that_is_learned_is_saved(make: Any) -> None:
    invariance, other = make(), make()
    before = float(invariance.multiplier)
    invariance.update(torch.tensor(0.7), KEPT)
    assert float(invariance.multiplier) > before
    other.load_state_dict(invariance.state_dict())
    assert torch.equal(other.multiplier, invariance.multiplier)
    assert torch.equal(other.moving_mean, invariance.moving_mean)


def test_a_weight_is_not_saved() -> None:
    assert not Penalty().state_dict()


def test_the_logarithm_of_a_multiplier_follows_the_kept_rate() -> None:
    invariance = KeepRate(0.9, gain=2.0, decay=0.75, initial=5.0)
    logarithm, mean = math.log(5.0), 0.9
    for kept in (0.5, 0.25, 1.0, 1.0, 0.9):
        invariance.update(torch.tensor(99.0), torch.tensor(kept))
        mean += 0.25 * (kept - mean)
        logarithm += 2.0 * (0.9 - mean)
        assert float(invariance.moving_mean) == pytest.approx(mean)
        assert float(invariance.multiplier) == pytest.approx(math.exp(logarithm))


def test_a_multiplier_of_a_kept_rate_stays_in_its_range_and_comes_back() -> None:
    invariance = KeepRate(0.9, gain=500.0, decay=0.0, maximum=20.0)
    for kept, expected in ((0.0, 20.0), (1.0, MIN_MULTIPLIER), (1.0, MIN_MULTIPLIER), (0.0, 20.0)):
        invariance.update(torch.tensor(0.0), torch.tensor(kept))
        assert float(invariance.multiplier) == pytest.approx(expected)


@pytest.mark.parametrize("rate", [0.6, 0.9])
def test_the_kept_rate_of_a_response_settles_at_the_wished_one(rate: float) -> None:
    """Draws of a standard deviation that shrinks with the multiplier, of which those within 1 are kept."""
    invariance, generator = KeepRate(rate), torch.Generator().manual_seed(0)
    rates = []
    for _ in range(1000):
        draws = torch.randn(64, generator=generator) * 4 / invariance.multiplier.sqrt()
        rates.append((draws.abs() < 1).float().mean())
        invariance.update(torch.tensor(0.0), rates[-1])
    assert float(torch.stack(rates[500:]).mean()) == pytest.approx(rate, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        (Penalty, {"weight": -1.0}, "weight=-1.0: expected a number >= 0"),
        (Hinge, {"epsilon": -1.0}, "epsilon=-1.0: expected a number >= 0"),
        (Hinge, {"weight": -1.0}, "weight=-1.0: expected a number >= 0"),
        (Constraint, {"epsilon": 0.0}, "epsilon=0.0: expected a positive number"),
        (Constraint, {"rate": 0.0}, "rate=0.0.*expected rate > 0"),
        (Constraint, {"decay": 1.0}, "decay=1.0.*expected rate > 0, 0 <= decay < 1"),
        (Constraint, {"initial": 5.0, "maximum": 4.0}, "initial=5.0, maximum=4.0.*expected"),
        (KeepRate, {"rate": 0.0}, r"rate=0.0: expected a fraction of kept predictions in \(0, 1\), such as rate=0.9"),
        (KeepRate, {"rate": 1.0}, "rate=1.0: expected a fraction"),
        (KeepRate, {"rate": 90}, "rate=90: expected a fraction"),
        (KeepRate, {"rate": math.nan}, "rate=nan: expected a fraction"),
        (KeepRate, {"rate": "0.9"}, "rate=0.9: expected a fraction"),
        (KeepRate, {"gain": 0.0}, "gain=0.0: expected a positive number"),
        (KeepRate, {"decay": 1.0}, "decay=1.0.*expected 0 <= decay < 1 and 0.01 <= initial <= maximum"),
        (KeepRate, {"initial": 0.0}, "initial=0.0.*expected"),
        (KeepRate, {"initial": 5.0, "maximum": 4.0}, "initial=5.0, maximum=4.0.*expected"),
        (KeepRate, {"maximum": math.inf}, "maximum=inf: expected a positive number"),
    ],
)
def test_settings_out_of_range(kind: Any, arguments: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind(**arguments)


def test_repr_shows_the_settings() -> None:
    assert repr(Penalty(2.0)) == "Penalty(weight=2.0)"
    assert repr(Hinge()) == "Hinge(epsilon=0.1, weight=8.0)"
    assert repr(KeepRate(0.8)) == "KeepRate(rate=0.8, gain=0.3, decay=0.9, initial=8.0, maximum=100.0)"
    assert repr(Constraint(0.2)) == "Constraint(epsilon=0.2, rate=0.02, decay=0.9, initial=1.0, maximum=100.0)"
