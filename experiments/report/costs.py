"""The cost of training, the best baseline, and the cost of each row to match it.

The best baseline is the best row except HARD itself and rows that use more information than a baseline: fixed
augmentation, plain distillation and the label-based adversary are baselines. It is selected on the test set itself by
the mean over the seeds, which favours it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.report.figures import partial, spread

HARD = "hard"
#: Rows that are not baselines: ours, the upper bound (`oracle`), and training without a teacher (`supervised`).
NO_BASELINES = (HARD, "generated", "oracle", "supervised", "teacher")
#: The measures of cost, with their number of digits.
COSTS = {"step": 0, "evaluations": 0, "seconds": 1}

Rows = dict[str, list[dict[str, Any]]]


def spent(rows: Rows, key: str, digits: int) -> dict[str, Any]:
    """Return a cost by row, for the students that have it in every seed.

    Args:
        rows: by student, the results of each seed.
        key: of the cost.
        digits: to round to.
    """
    return {
        name: spread([r[key] for r in row], digits)
        for name, row in rows.items()
        if name != "teacher" and all(key in r for r in row)
    }


def best_baselines(rows: Rows, sets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the best baseline by test set, empty in runs without HARD or without a baseline.

    Args:
        rows: by student, the results of each seed.
        sets: test sets.

    Returns:
        by test set `row`, its `accuracy`, that of `hard`, and the difference `hard_minus`, in %.
    """
    candidates = [name for name in rows if name not in NO_BASELINES]
    if HARD not in rows or not candidates:
        return {}
    found = {}
    for key in sets:
        name = max(candidates, key=lambda name: sum(r[key] for r in rows[name]))
        pairs = list(zip(rows[HARD], rows[name], strict=True))
        found[key] = {
            "row": name,
            "accuracy": spread([100 * base[key] for _, base in pairs]),
            "hard": spread([100 * hard[key] for hard, _ in pairs]),
            "hard_minus": spread([100 * (hard[key] - base[key]) for hard, base in pairs]),
        }
    return found


def reached(rows: Rows, best: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the cost of each row with a curve at the first point that matches the best baseline's final accuracy.

    Args:
        rows: by student, the results of each seed.
        best: the result of `best_baselines`.

    Returns:
        by test set, if the baseline has a curve: `baseline`; `accuracy`, the target, which differs by seed, in %;
        `total_cost` of the baseline's whole training; and by row `seeds`, the number that reach the target, `step`,
        `evaluations` and `seconds` of those (None in the values for a seed that does not), `fraction_of_total`, the
        same as fractions of `total_cost`, and `fraction_of_first`, as fractions of the baseline's own cost when it
        first reached the target.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, of in best.items():
        curves = {
            name: [r["curve"] for r in row]
            for name, row in rows.items()
            if all(r.get("curve") and all(key in point for point in r["curve"]) for r in row)
        }
        if of["row"] not in curves:
            continue
        targets = [r[key] for r in rows[of["row"]]]
        total = [curve[-1] for curve in curves[of["row"]]]
        own = _first(curves[of["row"]], key, targets)
        found[key] = {
            "baseline": of["row"],
            "accuracy": of["accuracy"],
            "total_cost": {cost: spread([point[cost] for point in total], digits) for cost, digits in COSTS.items()},
            "rows": {name: _costs(_first(curve, key, targets), total, own) for name, curve in curves.items()},
        }
    return found


def _first(curves: list[list[dict[str, Any]]], key: str, targets: list[float]) -> list[dict[str, Any] | None]:
    """Return by seed the first point that reaches the target."""
    return [
        next((point for point in curve if point[key] >= target), None)
        for curve, target in zip(curves, targets, strict=True)
    ]


def _costs(
    first: list[dict[str, Any] | None], total: list[dict[str, Any]], own: list[dict[str, Any] | None]
) -> dict[str, Any]:
    def fractions(of: Sequence[dict[str, Any] | None], cost: str) -> list[float | None]:
        pairs = zip(first, of, strict=True)
        return [point[cost] / base[cost] if point and base and base[cost] else None for point, base in pairs]

    return {
        "seeds": sum(point is not None for point in first),
        **{
            cost: partial([point[cost] if point else None for point in first], digits) for cost, digits in COSTS.items()
        },
        "fraction_of_total": {cost: partial(fractions(total, cost), 3) for cost in COSTS},
        "fraction_of_first": {cost: partial(fractions(own, cost), 3) for cost in COSTS},
    }
