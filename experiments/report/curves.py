"""Curves as inline SVG that uses the page's text colour, for light and dark mode."""

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

#: Colours of rows without a fixed style, combined with each dash pattern; colour-blind safe on white and on black.
COLORS = ("#3b82c4", "#e08a1e", "#2a9d6f", "#8d6cc9", "#b0892f", "#c25c9b", "#3fa7b8")
#: Dash patterns by their CSS name, in line widths.
DASHES: Mapping[str, Any] = {"solid": "-", "dashed": (0, (4, 1.6)), "dotted": (0, (1, 1.2))}
#: With more curves than this, only highlighted ones have a band.
MAX_BANDS = 4
#: From here on, tick labels are abbreviated: full numbers would overlap.
LARGE = 10_000
#: Placeholder for the page's text colour.
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

#: A curve: `(step, x, y)`, sorted by step.
Points = Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Style:
    """Line style of one student.

    Attributes:
        color: of the line and its band.
        dash: key of `DASHES`.
        highlighted: thicker, above the others, and always with a band.
    """

    color: str
    dash: str = "solid"
    highlighted: bool = False

    @property
    def width(self) -> float:
        """Line width, points."""
        return 2.4 if self.highlighted else 1.3


#: Fixed styles: ours, and the reference rows.
FIXED = {
    "hard": Style("#d33a2f", highlighted=True),
    "supervised": Style("#8b9097", "dotted"),
    "oracle": Style("#8b9097", "dashed"),
    "teacher": Style("#8b9097"),
}


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Return a style for each name; styles repeat only after all combinations of colours and dashes."""
    found: dict[str, Style] = {}
    dashes, number = tuple(DASHES), 0
    for name in names:
        if name in FIXED:
            found[name] = FIXED[name]
        else:
            found[name] = Style(COLORS[number % len(COLORS)], dashes[number // len(COLORS) % len(dashes)])
            number += 1
    return found


def mean_of(seeds: Sequence[Points]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean curve over several seeds: x, mean and standard deviation (0 for one seed).

    The mean is taken at the steps that all seeds have; x, which may differ between seeds (such as seconds), is averaged
    too. Without common steps, the curves are averaged point by point.

    Raises:
        ValueError: a curve has no points.
    """
    if any(not len(points) for points in seeds):
        raise ValueError("a curve has no points")
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
    """Return one panel as an `<svg>` element.

    Args:
        lines: for each student its style and the curve of each seed.
        title: of the panel, also for screen readers.
        x_label: label of the x axis.
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
                color=style.color,
                linewidth=style.width,
                marker="o" if len(x) == 1 else None,
                markersize=3,
                zorder=3 if style.highlighted else 2,
            )
            if deviation.any() and (len(lines) <= MAX_BANDS or style.highlighted):
                low, high = mean - deviation, mean + deviation
                axes.fill_between(x, low, high, color=style.color, alpha=0.18, linewidth=0)
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
