"""The curves of a group as panels: the selected trial of each row under the row's name, all trials collapsed below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.report import curves, runs
from experiments.report.tables import shown_sets, written
from experiments.report.trials import selected

#: The x axes of accuracy curves: key in the curve's points, and label.
COSTS = {"step": "student steps", "evaluations": "network evaluations", "seconds": "seconds"}

#: Titles of logged scalars.
TITLES = {
    "teacher_consistency": "teacher consistency (fraction of unchanged predictions)",
    "disagreement": "disagreement, nats",
    "multiplier": "multiplier of the invariance term",
    "uniform_fraction": "fraction of uniform draws",
    "dropped_steps": "dropped policy updates",
}
#: By scalar and student, the curve of each seed that has it.
Scalars = dict[str, dict[str, list[curves.Points]]]


def panels(members: list[dict[str, Any]], summary: dict[str, Any]) -> dict[str, Any]:
    """Return the panels of a group.

    Args:
        members: its runs; empty if only the summary is available, which has the accuracies during training.
        summary: of the group.

    Returns:
        `legend` and `open`, the SVGs that are not collapsed; `folded`, each with `title`, `legend` and `panels`.
    """
    own, others = _scalars(members)
    accuracies = _accuracies(summary)
    names = [name for name in summary["accuracy"] if name != "teacher"]
    styles = curves.styles(names)
    drawn = {name for lines in (*own.values(), *accuracies.values()) for name in lines}
    legend = [_entry(name, styles[name]) for name in names if name in drawn]
    first = shown_sets(summary)
    accuracy = {key: _accuracy(key, lines, styles) for key, lines in accuracies.items()}
    scalars = {title: _scalar(title, lines, styles) for title, lines in own.items()}
    return {
        "legend": legend,
        "open": [svg for (key, _), svg in accuracy.items() if key in first]
        + [svg for title, svg in scalars.items() if "/" not in title],
        "folded": [
            one
            for one in (
                _folded(
                    "Accuracy on each test set", legend, [svg for (k, _), svg in accuracy.items() if k not in first]
                ),
                _folded("Curves of single parameters", legend, [svg for title, svg in scalars.items() if "/" in title]),
                *(_trials(name, lines, summary) for name, lines in others.items()),
            )
            if one["panels"]
        ],
    }


def _folded(title: str, legend: list[dict[str, Any]], drawn: list[str]) -> dict[str, Any]:
    return {"title": title, "legend": legend, "panels": drawn}


def _entry(name: str, style: curves.Style) -> dict[str, Any]:
    return {"name": name, "color": style.color, "dash": style.dash, "width": round(1.3 * style.width, 1)}


def _scalars(members: list[dict[str, Any]]) -> tuple[Scalars, dict[str, Scalars]]:
    """Return the scalars of each row's selected trial in each seed, and by row those of all trials by their number.

    Students that belong to no row (second students of the failure metrics) are among the latter under their own name.
    """
    own: Scalars = {}
    others: dict[str, Scalars] = {}
    for run in members:
        tried = run.get("trials", {})
        trials = {f"{name}/{number}": (name, number) for name, those in tried.items() for number in range(len(those))}
        for student, by_name in runs.curves(Path(run[runs.FOLDER])).items():
            row, number = trials.get(student, (student, None))
            taken = row in run["students"] and (number is None or number == selected(tried[row]))
            rest = row not in run["students"] or (number is not None and len(tried[row]) > 1)
            key = student if number is None else str(number)
            for scalar, values in by_name.items():
                points = [(step, step, value) for step, value in values]
                if taken:
                    own.setdefault(scalar, {}).setdefault(row, []).append(points)
                if rest:
                    others.setdefault(row, {}).setdefault(scalar, {}).setdefault(key, []).append(points)
    return own, others


def _scalar(title: str, lines: dict[str, list[curves.Points]], styles: dict[str, curves.Style]) -> str:
    ordered = [(styles[name], lines[name]) for name in styles if name in lines]
    return curves.svg(ordered, title=TITLES.get(title, title), x_label="student steps")


def _trials(row: str, scalars: Scalars, summary: dict[str, Any]) -> dict[str, Any]:
    """Return the panels of every trial of a row."""
    numbers = sorted({number for lines in scalars.values() for number in lines}, key=lambda key: (len(key), key))
    styles = curves.styles(numbers)
    trials = summary.get("trials", {}).get(row, [])
    named = {str(number): written(one["settings"]) for number, one in enumerate(trials)}
    legend = [_entry(named.get(number, number), styles[number]) for number in numbers]
    drawn = [_scalar(title, lines, styles) for title, lines in scalars.items()]
    return _folded(f"Curves of all trials of {row}" if named else f"Curves of {row}", legend, drawn)


def _accuracies(summary: dict[str, Any]) -> dict[tuple[str, str], dict[str, list[curves.Points]]]:
    """Return by test set and cost the accuracy curves, in %, of the rows that have them in every seed."""
    found: dict[tuple[str, str], dict[str, list[curves.Points]]] = {}
    for key in summary["sets"]:
        for cost in COSTS:
            for student, by_seed in summary.get("curves", {}).items():
                if all(cost in point and key in point for curve in by_seed for point in curve):
                    points: list[curves.Points] = [
                        [(point["step"], point[cost], 100 * point[key]) for point in curve] for curve in by_seed
                    ]
                    found.setdefault((key, cost), {})[student] = points
    return found


def _accuracy(of: tuple[str, str], lines: dict[str, list[curves.Points]], styles: dict[str, curves.Style]) -> str:
    key, cost = of
    ordered = [(styles[name], lines[name]) for name in styles if name in lines]
    return curves.svg(ordered, title=f"{key}, accuracy in %", x_label=COSTS[cost])
