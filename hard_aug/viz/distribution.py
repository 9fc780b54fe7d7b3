"""Learned distributions side by side: a row for each policy, a column for each parameter, over its whole range."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from hard_aug.transforms import Parameter
from hard_aug.viz.drawing import (
    HARD,
    SIZE,
    WIDTH,
    add_legend,
    relative_position,
    relative_std,
    value_at,
    write_relative_std,
)

BINS = 31
#: Largest number of columns that can still be read.
MAX_COLUMNS = 12


def draw_distributions(
    drawn: Mapping[str, Mapping[str, Tensor]], spec: tuple[Parameter, ...], *, title: str = ""
) -> Figure:
    """Draw histograms of decoded parameters.

    Args:
        drawn: For each policy, by the name of its row, the values `(N,)` of each parameter, as in `hard.params` or
            returned by `transform.decode(u)`.
        spec: The parameters to draw, at most 12, from the transform's `spec`.
        title: Title of the figure.

    Returns:
        A figure. The axis of values is the whole range; it is logarithmic for factors. The dashed line is the identity,
        the grey line the density of uniform random augmentation. The number is the standard deviation relative to
        uniform random augmentation.

    Raises:
        ValueError: If there is nothing to draw, there are more than 12 parameters, or a row lacks one of them.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Affine
        >>> from hard_aug.viz import draw_distributions
        >>> transform = Affine(scale=None, shear=None)
        >>> values = transform.decode(torch.randn(100, transform.size))
        >>> len(draw_distributions({"random": values}, transform.spec).axes)
        3
    """
    if not drawn or not 1 <= len(spec) <= MAX_COLUMNS:
        raise ValueError(
            f"{len(drawn)} rows of {len(spec)} parameters: expected at least one row, and 1 to {MAX_COLUMNS} parameters"
        )
    for name, values in drawn.items():
        missing = [parameter.name for parameter in spec if parameter.name not in values]
        if missing:
            raise ValueError(f"{name!r} lacks {', '.join(missing)}; it has {', '.join(values)}")
    figure = Figure(figsize=(max(1.33 * len(spec) + 0.6, WIDTH), 1.3 * len(drawn) + 1.0), layout="constrained")
    axes = figure.subplots(len(drawn), len(spec), squeeze=False)
    for line, (name, values) in zip(axes, drawn.items(), strict=True):
        for axis, parameter in zip(line, spec, strict=True):
            _panel(axis, parameter, values[parameter.name].detach().cpu().double().numpy())
        line[0].set_ylabel(name, size=10, parse_math=False)
    for axis, parameter in zip(axes[0], spec, strict=True):
        axis.set_title(parameter.name.replace("_", " "), size=SIZE, parse_math=False)
    for axis, parameter in zip(axes[-1], spec, strict=True):
        axis.set_xlabel(parameter.unit, size=SIZE, parse_math=False)
    for axis in axes[:-1].flat:
        axis.set_xticklabels([])
    add_legend(
        figure,
        axes,
        axes.size,
        columns=3,
        note="rel. std: standard deviation relative to uniform random augmentation (1: as wide, 0: constant)",
    )
    if title:
        figure.suptitle(title, size=SIZE + 2, parse_math=False)
    return figure


def _panel(axis: Axes, parameter: Parameter, values: np.ndarray) -> None:
    positions, identity = (relative_position(parameter, one) for one in (values, np.array(parameter.identity)))
    axis.hist(positions, bins=BINS, range=(0, 1), density=True, color=HARD, label="drawn")
    axis.axhline(1, color="0.5", lw=1, label="uniform random augmentation")
    axis.axvline(float(identity), color="black", ls="--", lw=0.8, label="identity")
    axis.set_ylim(0, 1.25 * axis.get_ylim()[1])  # space for the text
    write_relative_std(axis, relative_std(parameter, values))
    axis.set_xlim(0, 1)
    axis.set_yticks([])
    ends = [0.0, 1.0] if parameter.one_sided else [0.0, 0.5, 1.0]
    axis.set_xticks(ends, [f"{value_at(parameter, end):.3g}" for end in ends], size=SIZE)
    axis.spines[["top", "right", "left"]].set_visible(False)
