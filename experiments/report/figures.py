"""Means and deviations over seeds, and how they are written."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def spread(values: list[float], digits: int = 2) -> dict[str, Any]:
    """Mean, standard deviation (of the sample; None for one value) and the values."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {
        "mean": round(statistics.fmean(values), digits),
        "sd": None if sd is None else round(sd, digits),
        "values": [round(value, digits) for value in values],
    }


def partial(values: Sequence[float | None], digits: int = 2) -> dict[str, Any] | None:
    """`spread` of the values that are there, all of them listed; None where there are none."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    listed = [None if value is None else round(value, digits) for value in values]
    return {**spread(there, digits), "values": listed}


def text(value: dict[str, Any], *, sign: bool = False) -> str:
    """Mean and deviation, to a tenth."""
    rounded = round(value["mean"], 1) + 0.0  # no negative zero
    mean = f"{rounded:+.1f}" if sign else f"{rounded:.1f}"
    return mean if value["sd"] is None else f"{mean} ± {value['sd']:.1f}"


def whole(value: dict[str, Any]) -> str:
    """Mean and deviation, to a whole number."""
    return f"{value['mean']:.0f}" if value["sd"] is None else f"{value['mean']:.0f} ± {value['sd']:.0f}"


def millions(value: dict[str, Any]) -> str:
    """Mean and deviation in millions, to three digits; what is the same for all seeds has no deviation."""
    mean, sd = value["mean"] / 1e6, (value["sd"] or 0.0) / 1e6
    digits = max(0, 2 - len(f"{mean:.0f}") + 1) if mean >= 1 else 3
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if round(sd, digits) else "")
