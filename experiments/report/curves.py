"""Curves as SVG that stands inside a page: its ink is the page's, so it is read in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

#: Of rows without a colour of their own, each in each dash; told apart by eyes of all kinds, on white and on black.
COLOURS = ("#3b82c4", "#e08a1e", "#2a9d6f", "#8d6cc9", "#b0892f", "#c25c9b", "#3fa7b8")
#: By name in CSS, on and off in line widths.
DASHES: Mapping[str, Any] = {"solid": "-", "dashed": (0, (4, 1.6)), "dotted": (0, (1, 1.2))}
#: Of more curves than these only those that stand out have a band.
BANDS = 4
#: Written out, numbers from here on would run into each other below a panel.
LARGE = 10_000
#: A colour that stands for the page's own.
INK = "#010203"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
}

#: A curve: `(step, x, y)` in the order of the steps.
Points = Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Style:
    """How one student is drawn; a row that `stands_out` is thicker, above the others, and keeps its band."""

    colour: str
    dash: str = "solid"
    stands_out: bool = False

    @property
    def width(self) -> float:
        """Points."""
        return 2.4 if self.stands_out else 1.3


#: Ours, and the marks at the ends of the scale.
OWN = {
    "hard": Style("#d33a2f", stands_out=True),
    "labels": Style("#8b9097", "dotted"),
    "oracle": Style("#8b9097", "dashed"),
    "teacher": Style("#8b9097"),
}


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each; as many as there are colours and dashes are all different."""
    found: dict[str, Style] = {}
    dashes, number = tuple(DASHES), 0
    for name in names:
        if name in OWN:
            found[name] = OWN[name]
        else:
            found[name] = Style(COLOURS[number % len(COLOURS)], dashes[number // len(COLOURS) % len(dashes)])
            number += 1
    return found


def mean_of(seeds: Sequence[Points]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The curves of several seeds as one: x, mean and standard deviation (0 for one seed).

    At the steps that all have; x, which may differ from seed to seed as seconds do, is a mean as well. Without a common
    step, point by point.
    """
    if any(not len(points) for points in seeds):
        raise ValueError("a curve without points")
    by_step = [{step: (x, y) for step, x, y in points} for points in seeds]
    shared = sorted(set.intersection(*(set(points) for points in by_step)))
    if shared:
        both = np.array([[points[step] for step in shared] for points in by_step])
    else:
        count = min(len(points) for points in seeds)
        both = np.array([[(x, y) for _, x, y in points[:count]] for points in seeds])
    x, y = both[..., 0].mean(0), both[..., 1]
    return x, y.mean(0), y.std(0, ddof=1) if len(y) > 1 else np.zeros(len(x))


def svg(lines: Sequence[tuple[Style, Sequence[Points]]], *, title: str, x_label: str) -> str:
    """One panel as an `<svg>` element.

    Args:
        lines: of each student the style, and the curve of each seed.
        title: over it; also what a screen reader says.
        x_label: under it.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for style, seeds in lines:
            x, mean, deviation = mean_of(seeds)
            axes.plot(
                x,
                mean,
                linestyle=DASHES[style.dash],
                color=style.colour,
                linewidth=style.width,
                marker="o" if len(x) == 1 else None,
                markersize=3,
                zorder=3 if style.stands_out else 2,
            )
            if deviation.any() and (len(lines) <= BANDS or style.stands_out):
                low, high = mean - deviation, mean + deviation
                axes.fill_between(x, low, high, color=style.colour, alpha=0.18, linewidth=0)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel(x_label)
        if axes.get_xlim()[1] >= LARGE:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k
        axes.grid(color=INK, alpha=0.12, linewidth=0.5)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    element = drawn.getvalue()
    element = element[element.index("<svg") :].replace(INK, "currentColor")
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'(<svg [^>]*?) ?width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg [^>]*?) ?height="[^"]*"', r"\1", element, count=1)
    return element.replace("<svg ", f'<svg role="img" aria-label="{_escaped(title)}" ', 1)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
