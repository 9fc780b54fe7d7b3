"""Curves as SVG that stands inside a page: its ink is the page's, so it is read in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

#: One for each student, in this order and again dashed; told apart by eyes of all kinds, on white and on black.
COLOURS = ("#3b82c4", "#e08a1e", "#2a9d6f", "#c8553d", "#8d6cc9", "#c25c9b", "#7d7d2a", "#4aa3b5")
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

Points = Sequence[tuple[float, float]]


def style_of(index: int) -> tuple[str, str]:
    """Colour and dash of the student of that number."""
    return COLOURS[index % len(COLOURS)], "-" if index < len(COLOURS) else "--"


def mean_of(seeds: Sequence[Points]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The curves of several seeds as one: x, mean and standard deviation (0 for one seed).

    At steps that all have; where x differs from seed to seed, as seconds do, point by point and x is a mean as well.
    """
    if any(not len(points) for points in seeds):
        raise ValueError("a curve without points")
    shared = set.intersection(*({x for x, _ in points} for points in seeds))
    if shared:
        x = np.array(sorted(shared))
        y = np.array([[dict(points)[at] for at in x] for points in seeds])
    else:
        count = min(len(points) for points in seeds)
        both = np.array([points[:count] for points in seeds])
        x, y = both[..., 0].mean(0), both[..., 1]
    return x, y.mean(0), y.std(0, ddof=1) if len(y) > 1 else np.zeros(len(x))


def svg(lines: Mapping[int, Sequence[Points]], *, title: str, x_label: str) -> str:
    """One panel as an `<svg>` element.

    Args:
        lines: by the number of the student, its curve of each seed.
        title: over it; also what a screen reader says.
        x_label: under it.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.0, 2.6), layout="constrained")
        axes = figure.add_subplot()
        for index, seeds in lines.items():
            x, mean, deviation = mean_of(seeds)
            colour, dash = style_of(index)
            axes.plot(x, mean, dash, color=colour, linewidth=1.4, marker="o" if len(x) == 1 else None, markersize=3)
            if deviation.any():
                axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.18, linewidth=0)
        axes.set_title(title, loc="left", fontsize=9)
        axes.set_xlabel(x_label)
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
