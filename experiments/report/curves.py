"""Curves of a group as inline SVG; what is black takes the page's text colour, for light and dark mode."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from experiments.report.groups import HARD, Group
from experiments.report.tables import curves

#: Colours of the rows, combined with each dash pattern (by its CSS name); legible on white and on black.
COLORS = ("#3b82c4", "#e08a1e", "#2a9d6f", "#8d6cc9", "#b0892f", "#c25c9b", "#3fa7b8")
DASHES: dict[str, Any] = {"solid": "-", "dashed": (0, (4, 1.6)), "dotted": (0, (1, 1.2))}
HIGHLIGHT = "#d33a2f"
#: With more curves than this, only those of HARD have a band.
MAX_BANDS = 4
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
}
#: Labels of the x axes.
AXES = {"step": "student steps", "evaluations": "network evaluations", "seconds": "seconds"}
#: Titles of logged scalars, and the factor to their unit.
SCALARS = {
    "loss": ("training loss", 1),
    "teacher_consistency": ("teacher consistency, %", 100),
    "uniform_fraction": ("uniform fraction of the draws, %", 100),
    "disagreement": ("disagreement of teacher and student, nats", 1),
    "multiplier": ("multiplier of the invariance term", 1),
    "dropped_steps": ("dropped policy updates", 1),
}


def panels(group: Group) -> dict[str, list[str]]:
    """Return SVGs by heading: of the main test set, of logged scalars, of the other sets, and of single parameters."""
    accuracy, scalars, names = curves(group), _scalars(group), group.rows(without=())
    others, parameters = "Accuracy on other test sets", "Parameters and further scalars"
    found: dict[str, list[str]] = {"": [], others: [], parameters: []}
    for key in group.sets if not accuracy.empty else ():
        for cost, label in AXES.items():
            points = accuracy.assign(x=accuracy[cost], y=accuracy[key])
            found["" if key == group.main else others] += _panel(points, names, f"accuracy on {key}, %", label)
    drawn = [group.records[run].get("policy", {}) for run in group.runs.run]
    units = {f"policy/{name}_sd": (f"std of {name}, {one['unit']}", 1) for each in drawn for name, one in each.items()}
    for key in scalars["key"].unique():
        title, factor = {**SCALARS, **units}.get(key, (key.rpartition("/")[2], 1))
        points = scalars[scalars["key"] == key].assign(y=lambda part, factor=factor: factor * part.y)
        found[parameters if "/" in key else ""] += _panel(points, names, title.replace("_", " "), AXES["step"])
    return {heading: svgs for heading, svgs in found.items() if svgs}


def _scalars(group: Group) -> pd.DataFrame:
    """Read `curves.csv` of the chosen runs: the last finite value of each step."""
    found = [pd.DataFrame(columns=["key"])]
    for run in group.runs.itertuples():
        path = Path(group.records[run.run].get("folder", "no folder")) / "curves.csv"
        if path.is_file():
            try:
                table = pd.read_csv(path, encoding="utf-8")
            except ValueError as error:
                raise ValueError(f"{path} can't be read ({error}); remove it to have no curves of this run") from error
            if list(table) != ["step", "name", "value"]:
                raise ValueError(f"{path} has the columns {', '.join(table)}; expected step, name, value")
            table["y"] = pd.to_numeric(table.value, errors="coerce").replace(
                [float("inf"), -float("inf")], float("nan")
            )
            table = table.dropna().drop_duplicates(["step", "name"], keep="last")  # a killed run may write a step again
            found.append(table.assign(key=table["name"], x=table.step, name=run.name, seed=run.seed))
    return pd.concat(found)


def style(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Return colour, dash and width of a row's curves; they repeat only after all combinations."""
    if name.partition(" ")[0] == HARD:
        dash = [each for each in names if each.partition(" ")[0] == HARD].index(name) % len(DASHES)
        return {"color": HIGHLIGHT, "dash": list(DASHES)[dash], "width": 2.4}
    number = names.index(name)
    return {
        "color": COLORS[number % len(COLORS)],
        "dash": list(DASHES)[number // len(COLORS) % len(DASHES)],
        "width": 1.3,
    }


def _panel(points: pd.DataFrame, names: Sequence[str], title: str, x_label: str) -> list[str]:
    """Return one SVG of the means over seeds, or none if no curve has two different values."""
    lines = {}
    for name, part in points.groupby("name"):
        mean = part.groupby("step").agg(x=("x", "mean"), y=("y", "mean"), sd=("y", "std"), seeds=("seed", "size"))
        lines[name] = mean[mean.seeds == part.seed.nunique()].fillna(0.0)
    if all(mean.y.round(9).nunique() < 2 for mean in lines.values()):
        return []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for name in (name for name in names if name in lines):
            mean, look = lines[name], style(name, names)
            drawn = {"color": look["color"], "zorder": 3 if look["width"] > 2 else 2}
            axes.plot(mean.x, mean.y, linestyle=DASHES[look["dash"]], linewidth=look["width"], **drawn)
            if mean.sd.any() and (len(lines) <= MAX_BANDS or look["width"] > 2):
                axes.fill_between(mean.x, mean.y - mean.sd, mean.y + mean.sd, alpha=0.18, linewidth=0, **drawn)
        low, high = axes.get_ylim()
        if "%" in title:  # not beyond what is possible
            axes.set_ylim(max(low, 0), min(high, 100.5))
        drawn_title = title.encode("utf-8", "backslashreplace").decode()  # matplotlib draws no others
        axes.set_title(drawn_title, loc="left", fontsize=9, parse_math=False)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.ticklabel_format(axis="y", useOffset=False)
        return [inline_svg(figure, f"{title}, {x_label}")]


def inline_svg(figure: Figure, label: str) -> str:
    """Return a figure as an SVG element of the page; `label` is read out. Call it under `STYLE`."""
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = written.getvalue().replace("#000000", "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[^"]*pt"', "", svg, count=2)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
