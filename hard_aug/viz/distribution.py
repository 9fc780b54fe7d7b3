"""Learned distributions side by side: a row for each policy, a column for each parameter, inside its whole range."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from hard_aug.transforms import Parameter
from hard_aug.viz.pictures import HARD

BINS = 31
#: So many columns can still be read.
MOST = 12


def draw_distributions(
    drawn: Mapping[str, Mapping[str, Tensor]], spec: tuple[Parameter, ...], *, title: str = ""
) -> Figure:
    """Draw histograms of decoded parameters.

    Args:
        drawn: for each policy, by the name of its row, the values `(N,)` of each parameter, as `hard.params` or
            `transform.decode(u)` has them.
        spec: the parameters that are drawn, at most 12, of the transform's `spec`.
        title: above all.

    Returns:
        A figure. The axis of values is the whole range; a factor's is logarithmic. The dashed line is the identity, and
        the gray level is random augmentation, which is uniform. In the corner stands the spread that is left: the
        standard deviation in units of the uniform distribution's.

    Raises:
        ValueError: nothing to draw, more than 12 parameters, or a row that lacks one.
    """
    if not drawn or not 1 <= len(spec) <= MOST:
        raise ValueError(f"{len(drawn)} rows of {len(spec)} parameters: wanted a row, and 1 to {MOST} parameters")
    for name, values in drawn.items():
        lacking = [parameter.name for parameter in spec if parameter.name not in values]
        if lacking:
            raise ValueError(f"{name!r} lacks {', '.join(lacking)}; has {', '.join(values)}")
    figure = Figure(figsize=(1.45 * len(spec) + 0.6, 1.3 * len(drawn) + 0.7), layout="constrained")
    axes = figure.subplots(len(drawn), len(spec), squeeze=False)
    for line, (name, values) in zip(axes, drawn.items(), strict=True):
        for axis, parameter in zip(line, spec, strict=True):
            _panel(axis, parameter, values[parameter.name].detach().double().cpu().numpy())
        line[0].set_ylabel(name, size=10)
    for axis, parameter in zip(axes[0], spec, strict=True):
        axis.set_title(parameter.name.replace("_", " "), size=9)
    for axis, parameter in zip(axes[-1], spec, strict=True):
        axis.set_xlabel(parameter.unit.replace("fraction of ", "of "), size=8)
    for axis in axes[:-1].flat:
        axis.set_xticklabels([])
    if title:
        figure.suptitle(title, size=11)
    return figure


def _panel(axis: Axes, parameter: Parameter, values: np.ndarray) -> None:
    scale = np.log if parameter.logarithmic else np.asarray
    low, high, identity = (float(scale(end)) for end in (parameter.low, parameter.high, parameter.identity))
    places = (scale(values) - low) / (high - low)  # in [0, 1], where random augmentation is uniform
    axis.hist(places, bins=BINS, range=(0, 1), density=True, color=HARD)
    axis.axhline(1, color="0.5", lw=1)
    axis.axvline((identity - low) / (high - low), color="black", ls="--", lw=0.8)
    axis.set_ylim(0, 1.25 * axis.get_ylim()[1])  # room for the text
    spread = float(places.std()) * 12**0.5
    axis.text(0.97, 0.95, f"{spread:.2f}", transform=axis.transAxes, ha="right", va="top", size=8)
    axis.set_xlim(0, 1)
    axis.set_yticks([])
    ends = [0.0, 1.0] if parameter.one_sided else [0.0, 0.5, 1.0]
    shown = [low + end * (high - low) for end in ends]
    shown = [float(np.exp(value)) for value in shown] if parameter.logarithmic else shown
    axis.set_xticks(ends, [f"{value:.3g}" for value in shown], size=7)
    axis.spines[["top", "right", "left"]].set_visible(False)
