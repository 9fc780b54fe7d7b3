"""Checks of the constructor arguments of transforms."""

from __future__ import annotations

import math
from collections.abc import Sequence


def check_positive(**ranges: float | None) -> None:
    """Raise `ValueError` unless each range is a positive number, or None for a part that is switched off."""
    for name, value in ranges.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value}: expected a positive number; {name}=None switches it off")


def check_factors(**factors: float | None) -> None:
    """Raise `ValueError` unless each largest factor is above 1, or None for a part that is switched off."""
    for name, value in factors.items():
        if value is not None and not (value > 1 and math.isfinite(value)):
            raise ValueError(f"{name}={value}: expected a factor above 1; {name}=None switches it off")


def check_pair(**sizes: int | Sequence[int]) -> tuple[int, int]:
    """Convert one size, given as a keyword argument, to (rows, columns); a single number is used for both.

    Raises:
        TypeError: If the size is not an integer or two integers.
        ValueError: If an integer is below 1.
    """
    ((name, size),) = sizes.items()
    pair = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2 or not all(isinstance(length, int) for length in pair):
        raise TypeError(f"{name}={size!r}: expected an integer, or a pair (rows, columns)")
    if min(pair) < 1:
        raise ValueError(f"{name}={size!r}: expected integers >= 1")
    return pair[0], pair[1]
