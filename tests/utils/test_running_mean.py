"""`RunningMean`: weights that fall with age, no value yet, values that are not finite, and copies."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from hard_aug.utils.running_mean import DECAY, RunningMean
from tests.helpers.defaults import defaults


def test_it_is_the_mean_with_weights_that_fall_with_age() -> None:
    mean = RunningMean(torch.device("cpu"))
    assert mean.value is None
    numbers = [math.sin(index) for index in range(300)]
    for number in numbers:
        mean.add(torch.tensor(number))
    weights = [DECAY**age for age in reversed(range(300))]
    expected = sum(weight * number for weight, number in zip(weights, numbers, strict=True)) / sum(weights)
    assert mean.value == pytest.approx(expected, abs=1e-6)


def test_values_that_are_not_finite_are_left_out() -> None:
    mean = RunningMean(torch.device("cpu"))
    for number in (math.nan, 0.25, math.inf, -math.inf, 0.25, math.nan):
        mean.add(torch.tensor(number, dtype=torch.float64))
    assert mean.value == pytest.approx(0.25)


def test_other_defaults_and_a_graph_make_no_difference() -> None:
    weight = torch.ones((), requires_grad=True)
    with defaults(torch.float64):
        mean = RunningMean(torch.device("cpu"))
        mean.add(2 * weight)
    assert mean.value == 2.0
    assert not mean._sum.requires_grad
    assert mean._sum.dtype == torch.float32


def test_a_copy_is_independent() -> None:
    mean = RunningMean(torch.device("cpu"))
    mean.add(torch.tensor(1.0))
    other = copy.deepcopy(mean)
    other.add(torch.tensor(0.0))
    assert mean.value == 1.0
    assert other.value == pytest.approx(DECAY / (1 + DECAY))
