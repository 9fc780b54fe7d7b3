"""Summary of a policy as bars: in which part of each range it draws, and how often it uses each group."""

from __future__ import annotations

from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hard_aug.summary import IN_USE, ParameterSummary, PolicySummary, range_text
from hard_aug.utils.checks import check_kinds
from hard_aug.viz.calibration import CALIBRATED, FULL, REST, ROW, bar, finish_bars, lighter
from hard_aug.viz.drawing import HARD, SIZE, WIDTH

#: Colours of what is in use, and of what is not.
USED, UNUSED = HARD, lighter(HARD, 0.6)


def draw_summary(summary: PolicySummary, *, title: str = "") -> Figure:
    """Draw for each row of a summary the range it is drawn from, and beside it how often its group is used.

    Positions are in percent of the range's side below or above the identity (of factors, in the logarithm). What is
    used on less than 10 % of the images is pale.

    Args:
        summary: Result of `HardAugmenter.summary`.
        title: Title of the figure.

    Raises:
        TypeError: If it is no `PolicySummary`.

    Example:
        >>> from hard_aug.policies import Uniform
        >>> from hard_aug.summary import summarize
        >>> from hard_aug.transforms import Affine
        >>> from hard_aug.viz import draw_summary
        >>> figure = draw_summary(summarize(Affine(), Uniform(Affine().spec)))
        >>> [axis.get_title() for axis in figure.axes]
        ['ranges', 'used on (% of the images)']
    """
    check_kinds(summary=(summary, PolicySummary))
    figure = Figure(figsize=(WIDTH, ROW * len(summary.rows) + REST), layout="constrained")
    ranges, uses = figure.subplots(1, 2, width_ratios=(2.2, 1))
    for y, row in enumerate(summary.rows):
        _ranges(ranges, y, row, in_use=row.frequency >= IN_USE)
    finish_bars(ranges, [row.name.replace("_", " ") for row in summary.rows], limit=102)
    ranges.set_xlabel("part of the range below and above the identity (%)", size=SIZE)
    ranges.set_title("ranges", size=SIZE)
    ranges.annotate("drawn range", (1, 1), (4, 6), xycoords="axes fraction", textcoords="offset points", size=SIZE)
    _uses(uses, summary)
    figure.legend(
        *ranges.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=SIZE, frameon=False
    )
    lines = [title] if title else []
    if summary.kept is not None:
        lines.append(f"The teacher keeps {100 * summary.kept:.0f} % of its predictions on hard images")
    if lines:
        figure.suptitle("\n".join(lines), size=SIZE + 2, parse_math=False)
    return figure


def _ranges(axis: Axes, y: int, row: ParameterSummary, *, in_use: bool) -> None:
    full, drawn = ((row.position(low), row.position(high)) for low, high in (row.full, row.drawn))
    bar(axis, y, full, 0.8, color=FULL, label="full range")
    if row.calibrated is not None:
        low, high = row.calibrated
        bar(axis, y, (row.position(low), row.position(high)), 0.8, color=CALIBRATED, label="calibrated range")
    bar(axis, y, drawn, 0.4, color=USED if in_use else UNUSED, label="drawn range")
    axis.annotate(
        f"{range_text(*row.drawn)} ({row.unit})",
        (1, y),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        size=SIZE - 1,
        parse_math=False,
    )


def _uses(axis: Axes, summary: PolicySummary) -> None:
    """Draw one bar for each group, as high as its rows."""
    y = 0
    for _, found in groupby(summary.rows, key=lambda row: row.group):
        rows = list(found)
        percent, count = 100 * rows[0].frequency, len(rows)
        middle = y + (count - 1) / 2
        axis.barh(middle, percent, count - 0.2, lw=0, color=USED if rows[0].frequency >= IN_USE else UNUSED)
        axis.text(percent + 2, middle, f"{percent:.0f} %", va="center", size=SIZE - 1)
        y += count
    axis.set_ylim(len(summary.rows) - 0.4, -0.6)
    axis.set_xlim(0, 125)
    axis.spines["bottom"].set_bounds(0, 100)
    axis.set_xticks([0, 50, 100], ["0", "50", "100"], size=SIZE)
    axis.set_yticks([])
    axis.spines[["top", "right"]].set_visible(False)
    if len(summary.in_use) < len(summary.frequencies):
        axis.set_xlabel(f"pale: below {100 * IN_USE:.0f} %", size=SIZE)
    axis.set_title("used on (% of the images)", size=SIZE)
