"""Histograms of the disagreement over images, one above the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from hard_aug.viz.drawing import HARD, SIZE, WIDTH

#: Smaller values are drawn here, because a logarithmic axis can't show 0.
MIN_VALUE = 1e-6
BINS = 40


def draw_disagreement(
    disagreement: Mapping[str, Tensor], *, unit: str = "disagreement (nats)", title: str = ""
) -> Figure:
    """Draw one histogram for each name, on a common logarithmic axis, with its median.

    Args:
        disagreement: Values `(N,)`, at least 0, by name and in the order of drawing: for example `hard.disagreement` of
            the same images before and after training.
        unit: Label of the axis.
        title: Title of the figure.

    Raises:
        ValueError: If there is nothing to draw, or a value is negative or not finite.

    Example:
        >>> import torch
        >>> from hard_aug.viz import draw_disagreement
        >>> figure = draw_disagreement({"before": torch.full((9,), 2.0), "after": torch.full((9,), 0.5)})
        >>> [axis.get_title(loc="left") for axis in figure.axes]
        ['before: median 2', 'after: median 0.5']
    """
    if not disagreement:
        raise ValueError("nothing to draw; pass for example draw_disagreement({'before': before, 'after': after})")
    values = {}
    for name, given in disagreement.items():
        found = given.detach().cpu().double().flatten().numpy()
        if not len(found) or not np.isfinite(found).all() or found.min() < -MIN_VALUE:
            raise ValueError(f"{name!r}: expected at least one value, all of them finite and >= 0, as those of KL are")
        values[name] = found.clip(MIN_VALUE)
    low, high = min(map(np.min, values.values())), max(map(np.max, values.values()))
    bins = np.geomspace(low / 1.05, high * 1.05, BINS)
    figure = Figure(figsize=(WIDTH, 1.2 * len(values) + 0.7), layout="constrained")
    axes = figure.subplots(len(values), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    for axis, (name, found) in zip(axes, values.items(), strict=True):
        axis.hist(found, bins=bins, weights=np.full(len(found), 100 / len(found)), color=HARD, alpha=0.7)
        median = float(np.median(found))
        axis.axvline(median, color="black", lw=1.2)
        axis.set_title(f"{name}: median {median:.2g}", size=SIZE, loc="left", pad=3, parse_math=False)
        axis.set_xscale("log")
        axis.set_ylabel("images (%)", size=SIZE)
        axis.tick_params(labelsize=SIZE)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(unit, size=SIZE, parse_math=False)
    if title:
        figure.suptitle(title, size=SIZE + 2, parse_math=False)
    return figure
