"""The distribution of the disagreement over images, one histogram above the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from hard_aug.viz.pictures import HARD

#: Smaller ones are drawn as this: whoever agrees has no disagreement, which a logarithm can't show.
SMALLEST = 1e-6
BINS = 40


def draw_disagreement(
    disagreement: Mapping[str, Tensor], *, unit: str = "disagreement, nats", title: str = ""
) -> Figure:
    """Draw a histogram of each, on one logarithmic axis, with its median.

    Args:
        disagreement: `(N,)` of values of at least 0 by name, in the order in which they are drawn: for example
            `hard.disagreement` of the same images before and after a training.
        unit: below the axis.
        title: above all.

    Raises:
        ValueError: nothing to draw, or values that are negative or not finite.
    """
    if not disagreement:
        raise ValueError("nothing to draw; give draw_disagreement({'before': before, 'after': after})")
    values = {}
    for name, given in disagreement.items():
        found = given.detach().double().flatten().cpu().numpy()
        if not len(found) or not np.isfinite(found).all() or found.min() < -SMALLEST:
            raise ValueError(f"{name!r}: wanted at least one value, all finite and at least 0, as those of KL are")
        values[name] = found.clip(SMALLEST)
    low, high = min(map(np.min, values.values())), max(map(np.max, values.values()))
    bins = np.geomspace(low / 1.05, high * 1.05, BINS)
    figure = Figure(figsize=(6.0, 1.1 * len(values) + 0.7), layout="constrained")
    axes = figure.subplots(len(values), 1, squeeze=False, sharex=True, sharey=True)[:, 0]
    for axis, (name, found) in zip(axes, values.items(), strict=True):
        axis.hist(found, bins=bins, weights=np.full(len(found), 100 / len(found)), color=HARD, alpha=0.7)
        median = float(np.median(found))
        axis.axvline(median, color="black", lw=1.2)
        axis.set_title(f"{name}: median {median:.2g}", size=9, loc="left", pad=3)
        axis.set_xscale("log")
        axis.set_ylabel("images, %", size=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(unit, size=9)
    if title:
        figure.suptitle(title, size=10)
    return figure
