"""Means and standard deviations over seeds, and their formatting."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def spread(values: list[float], digits: int = 2) -> dict[str, Any]:
    """Return the mean, the sample standard deviation `sd` (None for one value) and the values.

    Args:
        values: one for each seed.
        digits: to round to.
    """
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {
        "mean": round(statistics.fmean(values), digits),
        "sd": None if sd is None else round(sd, digits),
        "values": [round(value, digits) for value in values],
    }


def partial(values: Sequence[float | None], digits: int = 2) -> dict[str, Any] | None:
    """Return `spread` of the values that are not None, with all of them listed; None if there are none.

    Args:
        values: one for each seed.
        digits: to round to.
    """
    there = [value for value in values if value is not None]
    if not there:
        return None
    listed = [None if value is None else round(value, digits) for value in values]
    return {**spread(there, digits), "values": listed}


def text(value: dict[str, Any], *, sign: bool = False) -> str:
    """Format mean and standard deviation with one decimal.

    Args:
        value: the result of `spread`.
        sign: show the sign of positive numbers.
    """
    rounded = round(value["mean"], 1) + 0.0  # no negative zero
    mean = f"{rounded:+.1f}" if sign else f"{rounded:.1f}"
    return mean if value["sd"] is None else f"{mean} ± {value['sd']:.1f}"


def whole(value: dict[str, Any]) -> str:
    """Format mean and standard deviation as integers."""
    return f"{value['mean']:.0f}" if value["sd"] is None else f"{value['mean']:.0f} ± {value['sd']:.0f}"


def millions(value: dict[str, Any]) -> str:
    """Format mean and standard deviation in millions with three digits; a deviation that rounds to zero is omitted."""
    mean, sd = value["mean"] / 1e6, (value["sd"] or 0.0) / 1e6
    digits = max(0, 2 - len(f"{mean:.0f}") + 1) if mean >= 1 else 3
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if round(sd, digits) else "")


def precise(value: dict[str, Any]) -> str:
    """Format the mean alone with three significant digits."""
    return f"{value['mean']:.3g}"
