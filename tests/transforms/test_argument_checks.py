"""Checks of the arguments of transforms: what passes, and what the errors say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hard_aug.transforms.argument_checks import check_factors, check_pair, check_positive


def test_ranges_that_pass() -> None:
    check_positive(rotation=0.1, shear=None)
    check_factors(scale=1.01, contrast=None)
    assert check_pair(size=3) == (3, 3)
    assert check_pair(size=(3, 5)) == (3, 5)
    assert check_pair(size=[3, 5]) == (3, 5)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_ranges_are_positive_and_finite(value: float) -> None:
    with pytest.raises(ValueError, match=rf"shear={value}: expected a positive number; shear=None switches it off"):
        check_positive(rotation=1.0, shear=value)


@pytest.mark.parametrize("value", [1.0, 0.5, -2.0, math.nan, math.inf])
def test_factors_are_above_one_and_finite(value: float) -> None:
    with pytest.raises(ValueError, match=rf"scale={value}: expected a factor above 1; scale=None switches it off"):
        check_factors(scale=value)


@pytest.mark.parametrize("size", [4.5, (4, 4.5), (4,), (4, 4, 4), "ab"])
def test_sizes_are_one_or_two_integers(size: Any) -> None:
    with pytest.raises(TypeError, match=r"control=.*expected an integer, or a pair \(rows, columns\)"):
        check_pair(control=size)


@pytest.mark.parametrize("size", [0, (4, 0), (-1, 4)])
def test_sizes_are_at_least_one(size: Any) -> None:
    with pytest.raises(ValueError, match=r"control=.*expected integers >= 1"):
        check_pair(control=size)
