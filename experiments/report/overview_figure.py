"""Figure of an overview: what is closed of the gap between kd and the oracle, against the cost with all trials."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.report.curves import DASHES, STYLE, inline_svg, style
from experiments.report.groups import HARD
from experiments.report.overview import Overview
from experiments.training.files import save_figure

CAPTION = (
    "Closed fraction of the gap between kd and the oracle, mean over the tasks that count, against the network "
    "evaluations of all trials. A curve: the trial that is best on validation images among the first 1, 2, ... trials, "
    "exactly expected over all orders of the trials."
)
REFERENCE = "#8a8f98"
#: Factor of the x axis on both sides of the points.
MARGIN = 1.2
MARKERS = {"solid": "o", "dashed": "s", "dotted": "^"}
COST, CLOSED = "network evaluations with all trials, millions", "gap to oracle closed, %"


def best_of(values: Sequence[float]) -> list[float]:
    """Return the expected value of the best-ranked of 1, 2, ..., n values that are drawn without replacement.

    The value at rank r, from 0, is the best of k if it is drawn and the others come from the n - 1 - r behind it.

    Args:
        values: the best-ranked first.
    """
    n = len(values)
    return [
        sum(comb(n - 1 - rank, k - 1) * value for rank, value in enumerate(values)) / comb(n, k)
        for k in range(1, n + 1)
    ]


def progress(overview: Overview) -> pd.DataFrame:
    """Return a line for each row and number of trials: `name`, `trials`, `evaluations`, `closed` in %, `tasks`.

    Means over the tasks that count. Of settings that were selected elsewhere only the end is known. A task with fewer
    trials than others keeps the value of its last one.
    """
    counted = overview.trials[overview.trials.task.isin(overview.counted("to_oracle"))]
    counted = counted.dropna(subset=["to_oracle", "evaluations"])
    found = []
    for name in overview.names:
        curves = []
        for _, part in counted[counted.name == name].groupby("task"):
            ranked, tried = part.sort_values("rank"), int(part.tried.max())
            cost = ranked.evaluations.mean()
            if tried > len(ranked):
                curves.append([(tried, tried * cost, ranked.to_oracle[ranked.chosen].item())])
            else:
                values = enumerate(best_of(list(ranked.to_oracle)), start=1)
                curves.append([(k, k * cost, value) for k, value in values])
        for number in range(max(map(len, curves), default=0)):
            points = pd.DataFrame([curve[min(number, len(curve) - 1)] for curve in curves])
            trials, evaluations, closed = points.max()[0], points.mean()[1], points.mean()[2]
            found.append((name, int(trials), evaluations, closed, len(curves)))
    return pd.DataFrame(found, columns=["name", "trials", "evaluations", "closed", "tasks"])


def draw(overview: Overview) -> Figure:
    """Draw the rows of an overview: curves of tuned ones, points of the others. Call it under `STYLE`."""
    points, tasks = progress(overview), len(overview.counted("to_oracle"))
    ends = points.groupby("name").closed.last().sort_values(ascending=False, kind="stable")
    references = [*overview.of("kd"), *overview.of("oracle")]
    names = [name for name in overview.names if name not in references]
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name in map(str, ends.index):  # the legend has the order of the ends
        part = points[points.name == name]
        few = f" ({part.tasks.iloc[0]} of {tasks} tasks)" if part.tasks.iloc[0] < tasks else ""
        drawn = {"color": REFERENCE, "marker": "D", "markersize": 5} if name in references else _look(name, names)
        if len(part) == 1:
            drawn |= {"linestyle": "none"}
        label = f"{name}{few}".encode("utf-8", "backslashreplace").decode()  # matplotlib draws no others
        axes.plot(part.evaluations / 1e6, part.closed, label=label, **drawn)
    for level in (0, 100):
        axes.axhline(level, color=REFERENCE, linewidth=0.8, linestyle=":", zorder=1)
    axes.set_xscale("log")
    axes.set_xlim(points.evaluations.min() / 1e6 / MARGIN, points.evaluations.max() / 1e6 * MARGIN)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(COST)
    axes.set_ylabel(CLOSED)
    for text in figure.legend(loc="outside right upper", frameon=False).get_texts():
        text.set_parse_math(False)
    return figure


def _look(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a row's curve, as in the curves of a group, with a marker for each dash pattern."""
    look = style(name, names)
    is_hard = name.partition(" ")[0] == HARD
    return {
        "color": look["color"],
        "linestyle": DASHES[look["dash"]],
        "linewidth": look["width"],
        "marker": "*" if is_hard else MARKERS[look["dash"]],
        "markersize": 13 if is_hard else 5,
        "zorder": 4 if is_hard else 3,
    }


def svg(overview: Overview) -> str:
    """Return the figure as an SVG element of the page; empty if no task counts."""
    if progress(overview).empty:
        return ""
    with matplotlib.rc_context(STYLE):
        return inline_svg(draw(overview), f"{CLOSED}, {COST}")


def draw_file(overview: Overview, path: Path) -> None:
    """Write the figure as PNG; nothing if no task counts."""
    if not progress(overview).empty:
        with matplotlib.rc_context(STYLE):
            save_figure(draw(overview), path, 150)
