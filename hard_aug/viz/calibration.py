"""Calibration as bars: which part of each range is left, below and above the identity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from hard_aug.calibration import Calibration
from hard_aug.utils.checks import check_kinds
from hard_aug.viz.drawing import SIZE, TEACHER, WIDTH


def lighter(color: str, white: float) -> str:
    """Return a colour mixed with a part of white, in [0, 1]; unlike transparency it hides what is below."""
    return to_hex(tuple((1 - white) * np.array(to_rgb(color)) + white))


#: Colours of the whole range, and of what of it the teacher tolerates.
FULL, CALIBRATED = "0.88", lighter(TEACHER, 0.5)
#: Height of a row, and of everything above and below the rows, inches.
ROW, REST = 0.27, 1.6
#: Positions of the bars' ends beyond which there is no space for a value between them and the end of the range.
LAST_OUTSIDE = 0.72


def draw_calibration(calibration: Calibration, *, title: str = "") -> Figure:
    """Draw a bar for each row of a calibration: the range in which the teacher keeps its predictions, in the full one.

    Lengths are in percent of the range's side below or above the identity (of factors, in the logarithm). The values
    at the ends of the bars are in the unit beside the name, grey those of the full range.

    Args:
        calibration: Result of `calibrate`.
        title: Title of the figure.

    Raises:
        TypeError: If it is no `Calibration`.

    Example:
        >>> import torch
        >>> from hard_aug import calibrate
        >>> from hard_aug.transforms import Affine
        >>> from hard_aug.viz import draw_calibration
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> figure = draw_calibration(calibrate(network, torch.rand(4, 1, 8, 8), Affine(scale=None)))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()][-1]
        'shear (tangent)'
    """
    check_kinds(calibration=(calibration, Calibration))
    rows = calibration.rows
    figure = Figure(figsize=(WIDTH, ROW * len(rows) + REST), layout="constrained")
    axis = figure.subplots()
    for y, row in enumerate(rows):
        low = 0.0 if math.isnan(row.kept_below) else -1.0  # one-sided: nothing is below the identity
        bar(axis, y, (low, 1.0), 0.8, color=FULL, label="full range")
        bar(axis, y, (low * row.below, row.above), 0.8, color=CALIBRATED, label="calibrated range")
        for side, end, part, full in ((-1, row.low, row.below, row.full_low), (1, row.high, row.above, row.full_high)):
            if side > 0 or low < 0:
                _write(axis, y, 103 * side, full, ha="left" if side > 0 else "right", color="0.45")
                if part < 1:
                    _write_inside(axis, y, side * part, end)
    finish_bars(axis, [f"{row.name.replace('_', ' ')} ({row.unit})" for row in rows], limit=120)
    axis.set_xlabel("part of the range below and above the identity (%)", size=SIZE)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=SIZE, frameon=False)
    keep, images = f"{100 * calibration.keep:.0f} %", calibration.images
    kept = f"At the ends the teacher keeps at least {keep} of its predictions on {images} images"
    figure.suptitle(f"{title}\n{kept}" if title else kept, size=SIZE + 2, parse_math=False)
    return figure


def bar(axis: Axes, y: float, ends: tuple[float, float], height: float, *, label: str, **style: Any) -> None:
    """Draw a horizontal bar between two positions of a range, in [-1, 1]; the first one of a label is in the legend."""
    known = axis.get_legend_handles_labels()[1]
    low, high = (100 * end for end in ends)
    axis.barh(y, high - low, height, low, lw=0, label=None if label in known else label, **style)


def finish_bars(axis: Axes, names: Sequence[str], *, limit: float) -> None:
    """Mark the identity, name the rows from the top on, and show `limit` percent of the range on both sides."""
    axis.axvline(0, color="black", lw=1.2, label="identity")
    axis.set_yticks(range(len(names)), names, size=SIZE, parse_math=False)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(-limit, limit)
    axis.set_xticks(range(-100, 101, 50), ["100", "50", "0", "50", "100"], size=SIZE)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_bounds(-100, 100)


def _write_inside(axis: Axes, y: float, position: float, value: float) -> None:
    """Write a value between the end of a bar and that of the range, or inside the bar where there is no space."""
    outside, right = abs(position) <= LAST_OUTSIDE, position > 0
    shift = 2 if outside == right else -2
    _write(axis, y, 100 * position + shift, value, ha="left" if shift > 0 else "right")


def _write(axis: Axes, y: float, x: float, value: float, **style: Any) -> None:
    axis.text(x, y, f"{value:.3g}", va="center", size=SIZE - 1, **style)
