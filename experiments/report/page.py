"""The page: one HTML file that needs no other, from `page.html`."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.report import curves, runs
from experiments.report.tables import caption, cells, text

#: Columns of a metrics' `curve` that are no accuracies but what they are drawn against, and what they are called.
COSTS = {"step": "student steps", "evaluations": "network evaluations", "seconds": "seconds"}
#: Pictures of this one are shown, those of other seeds behind a click.
SHOWN = 0


def page(
    groups: list[list[dict[str, Any]]],
    summaries: list[dict[str, Any]],
    unfinished: list[dict[str, Any]],
    *,
    command: str = "",
) -> str:
    """The whole page.

    Args:
        groups: runs by configuration, as `runs.group` gives them.
        summaries: of each, with what distinguishes it.
        unfinished: runs without results.
        command: that made the runs.

    Raises:
        ValueError: curves that cannot be read.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        groups=[_group(members, summary) for members, summary in zip(groups, summaries, strict=True)],
        unfinished=unfinished,
        command=command,
    )


def _group(members: list[dict[str, Any]], summary: dict[str, Any]) -> dict[str, Any]:
    head, rows = cells(summary)
    scalars = _scalars(members)
    names = list(dict.fromkeys([*summary["accuracy"], *(name for panel in scalars.values() for name in panel)]))
    names.remove("teacher")
    number = {name: index for index, name in enumerate(names)}
    panels = {
        title: (curves.svg({number[n]: seeds for n, seeds in lines.items()}, title=title, x_label="student steps"))
        for title, lines in scalars.items()
    }
    drawn = {name for panel in scalars.values() for name in panel} | set(_with_curve(members))
    return {
        "title": summary["data"],
        "caption": caption({**summary, "differs": {}}),
        "differs": summary.get("differs", {}),
        "head": head,
        "rows": rows,
        "legend": [
            {
                "name": name,
                "colour": curves.style_of(number[name])[0],
                "dashed": curves.style_of(number[name])[1] == "--",
            }
            for name in names
            if name in drawn
        ],
        "accuracy": _accuracy(members, number),
        "scalars": {title: svg for title, svg in panels.items() if "/" not in title},
        "details": {title: svg for title, svg in panels.items() if "/" in title},
        "trials": {
            name: [{"settings": one["settings"], "validation": text(one["validation"])} for one in trials]
            for name, trials in summary.get("trials", {}).items()
        },
        "galleries": [
            {"seed": run["seed"], "open": index == SHOWN, "pictures": [_picture(path) for path in found]}
            for index, run in enumerate(members)
            if (found := runs.pictures(Path(run[runs.FOLDER])))
        ],
        "policy": summary.get("policy", {}),
        "config": summary["config"],
    }


def _scalars(members: list[dict[str, Any]]) -> dict[str, dict[str, list[curves.Points]]]:
    """By scalar and student, the curve of each seed that has it."""
    found: dict[str, dict[str, list[curves.Points]]] = {}
    for run in members:
        for student, by_name in runs.curves(Path(run[runs.FOLDER])).items():
            for name, points in by_name.items():
                found.setdefault(name, {}).setdefault(student, []).append(points)
    return found


def _with_curve(members: list[dict[str, Any]]) -> list[str]:
    """The students that have accuracies over training in the results of every seed."""
    return [name for name in members[0]["students"] if all(run["students"][name].get("curve") for run in members)]


def _accuracy(members: list[dict[str, Any]], number: dict[str, int]) -> list[str]:
    """Accuracy in per cent on each set, against each cost."""
    students = _with_curve(members)
    if not students:
        return []
    panels = []
    for name in members[0]["sets"]:
        for cost, label in COSTS.items():
            lines = {
                number[student]: [
                    [(point[cost], 100 * point[name]) for point in run["students"][student]["curve"]] for run in members
                ]
                for student in students
                if all(cost in p and name in p for run in members for p in run["students"][student]["curve"])
            }
            if lines:
                panels.append(curves.svg(lines, title=f"{name}, accuracy in %", x_label=label))
    return panels


def _picture(path: Path) -> dict[str, str]:
    encoded = base64.b64encode(path.read_bytes()).decode()
    return {"name": path.stem, "source": f"data:image/png;base64,{encoded}"}
