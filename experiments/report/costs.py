"""What training costs, the best baseline, and what each row spends until it is as good as that.

The best baseline is the best row that is neither ours nor knows more than a baseline may: fixed augmentation, plain
distillation, an adversary of labels. It is chosen on the test set itself by the mean over the seeds, which favours it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.report.figures import partial, spread

HARD = "hard"
#: No baselines: ours, and those that are told something else (`oracle`) or have no teacher (`labels`).
NO_BASELINES = (HARD, "mixed", "oracle", "labels", "teacher")
#: What is counted, and to how many digits.
COSTS = {"step": 0, "evaluations": 0, "seconds": 1}

Rows = dict[str, list[dict[str, Any]]]


def spent(rows: Rows, key: str, digits: int) -> dict[str, Any]:
    """A cost by row, of those students that have it in every seed."""
    return {
        name: spread([r[key] for r in row], digits)
        for name, row in rows.items()
        if name != "teacher" and all(key in r for r in row)
    }


def best_baselines(rows: Rows, sets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By test set, `row`, `accuracy`, `hard` and `hard_minus` in per cent; empty in runs without HARD or a baseline."""
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
    """What each row with a curve has spent at its first point that is as good as the best baseline is in the end.

    Args:
        rows: by student, the results of each seed.
        best: of `best_baselines`.

    Returns:
        by test set, where the baseline has a curve: `baseline`; `accuracy`, to be reached, by seed its own, per cent;
        `took`, what the whole training of the baseline cost; and by row `seeds`, how many came there, `step`,
        `evaluations` and `seconds` of those (None in the values for one that did not), `share`, the same as shares of
        `took`, and `share_of_first`, as shares of what the baseline itself had spent when it was first there.
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
        goals = [r[key] for r in rows[of["row"]]]
        took = [curve[-1] for curve in curves[of["row"]]]
        own = _first(curves[of["row"]], key, goals)
        found[key] = {
            "baseline": of["row"],
            "accuracy": of["accuracy"],
            "took": {cost: spread([point[cost] for point in took], digits) for cost, digits in COSTS.items()},
            "rows": {name: _costs(_first(curve, key, goals), took, own) for name, curve in curves.items()},
        }
    return found


def _first(curves: list[list[dict[str, Any]]], key: str, goals: list[float]) -> list[dict[str, Any] | None]:
    """By seed the first point that is as good as the goal."""
    return [
        next((point for point in curve if point[key] >= goal), None) for curve, goal in zip(curves, goals, strict=True)
    ]


def _costs(
    first: list[dict[str, Any] | None], took: list[dict[str, Any]], own: list[dict[str, Any] | None]
) -> dict[str, Any]:
    def shares(of: Sequence[dict[str, Any] | None], cost: str) -> list[float | None]:
        pairs = zip(first, of, strict=True)
        return [point[cost] / base[cost] if point and base and base[cost] else None for point, base in pairs]

    return {
        "seeds": sum(point is not None for point in first),
        **{
            cost: partial([point[cost] if point else None for point in first], digits) for cost, digits in COSTS.items()
        },
        "share": {cost: partial(shares(took, cost), 3) for cost in COSTS},
        "share_of_first": {cost: partial(shares(own, cost), 3) for cost in COSTS},
    }
