"""Helpers of all figures: colours and sizes, images with predictions below them, drawn parameters, and the legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from hard_aug.transforms import Parameter

#: In every figure the teacher is blue and the student red; what is to be transferred is orange.
TEACHER, STUDENT, HARD = "tab:blue", "tab:red", "tab:orange"
#: Width of a figure in inches, and size of its text in points. On a page 830 pixels wide, the text is 12 pixels high.
WIDTH, SIZE = 8.6, 9
#: Height of a line of text, inches.
LINE = 1.35 * SIZE / 72
#: Longer names of classes are cut.
LONGEST_NAME = 12
#: Explains the marks of `show_predictions`.
MARKS = "bold: differs from the teacher's prediction on the clean image; frame: only a student's prediction differs"


def show_image(axis: Axes, image: Tensor) -> None:
    """Draw an image: in colour if it has 3 or 4 channels, else the mean of its channels in grey.

    Args:
        axis: Where to draw.
        image: `(C, H, W)` in [0, 1].
    """
    pixels = image.detach().float().clamp(0, 1).cpu()
    if pixels.shape[0] in (3, 4):
        axis.imshow(pixels[:3].permute(1, 2, 0).numpy())
    else:
        axis.imshow(pixels.mean(0).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])


def show_predictions(
    axis: Axes,
    image: Tensor,
    logits: Mapping[str, Tensor],
    expected: int,
    classes: Sequence[str] | None,
    *,
    named: bool,
) -> None:
    """Draw an image, and below it a line for each network with its predicted class and its probability.

    A class other than `expected` is bold and red. A frame marks an image on which the first network, the teacher,
    predicts `expected` and another one does not.

    Args:
        axis: Where to draw.
        image: `(C, H, W)` in [0, 1].
        logits: `(K,)` by the network's name, the teacher's first.
        expected: The class that the teacher predicts for the clean image.
        classes: A name for each class; None: its number.
        named: Write the networks' names left of their lines.
    """
    show_image(axis, image)
    changed = []
    for line, (name, values) in enumerate(logits.items()):
        text, top = prediction_text(values, classes)
        write_below(axis, line, text, name if named else "", bold=top != expected)
        changed.append(top != expected)
    framed = any(changed) and not changed[0]
    for spine in axis.spines.values():
        spine.set(color=HARD if framed else "0.7", linewidth=3 if framed else 0.5)


def write_below(axis: Axes, line: int, text: str, name: str = "", *, bold: bool = False) -> None:
    """Write a line of text below an axis, bold and red or not, and the line's name left of it."""
    y = -4 - 72 * LINE * line
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top", "size": SIZE}
    place["parse_math"] = False  # a name may have dollars
    weight, color = ("bold", STUDENT) if bold else ("normal", "black")
    axis.annotate(text, (0.5, 0), (0, y), ha="center", weight=weight, color=color, **place)
    axis.annotate(name, (0, 0), (-8, y), ha="right", **place)


def prediction_text(logits: Tensor, classes: Sequence[str] | None) -> tuple[str, int]:
    """Format the predicted class with its probability.

    Args:
        logits: `(K,)`.
        classes: A name for each class; None: its number.

    Returns:
        The text, and the index of the class.
    """
    probability, top = logits.float().softmax(0).max(0)
    return f"{class_name(int(top), classes)}, {100 * float(probability):.0f} %", int(top)


def drawn_text(parameter: Parameter, value: float, image_size: Sequence[int]) -> str:
    """Format a drawn value with its sign and the unit in use: "shift x +5 px", "rotation -3°", "scale x 1.20".

    Args:
        parameter: The parameter.
        value: In the parameter's unit.
        image_size: `(H, W)`, pixels.
    """
    name = parameter.name.replace("translation", "shift").replace("_", " ")
    lengths = {"fraction of height": image_size[0], "fraction of width": image_size[1]}
    if parameter.unit in lengths:
        return f"{name} {value * lengths[parameter.unit]:+.0f} px"
    formats = {"degrees": "{:+.0f}°", "factor": "{:.2f}", "pixels": "{:+.1f} px"}
    return f"{name} {formats.get(parameter.unit, '{:+.2f}').format(value)}"


def relative_position(parameter: Parameter, values: np.ndarray) -> np.ndarray:
    """Return the positions of values in a parameter's range, in [0, 1], where random augmentation is uniform."""
    scale = np.log if parameter.logarithmic else np.asarray
    low, high = (float(scale(end)) for end in (parameter.low, parameter.high))
    return np.asarray((scale(values) - low) / (high - low))


def relative_std(parameter: Parameter, values: np.ndarray) -> float:
    """Return the standard deviation of values relative to uniform random augmentation: 1 for it, 0 for a constant."""
    return float(relative_position(parameter, values).std()) * 12**0.5


def write_relative_std(axis: Axes, relative: float) -> None:
    """Write a relative standard deviation into the upper right corner of an axis."""
    box: dict[str, Any] = {"facecolor": "white", "lw": 0, "pad": 1}  # hides lines behind the text
    axis.text(
        0.97, 0.97, f"rel. std {relative:.2f}", transform=axis.transAxes, ha="right", va="top", size=SIZE, bbox=box
    )


def value_at(parameter: Parameter, fraction: float) -> float:
    """Return the value at a fraction of the range, in the logarithm for factors."""
    if parameter.logarithmic:
        return float(parameter.low ** (1 - fraction) * parameter.high**fraction)
    return parameter.low + fraction * (parameter.high - parameter.low)


def add_legend(figure: Figure, axes: np.ndarray, used: int, *, columns: int, note: str = "") -> None:
    """Hide all axes after the first `used`, and put the first one's legend there, or below if there is no space.

    Args:
        figure: The figure.
        axes: Its axes.
        used: Number of axes that are used.
        columns: Number of the legend's columns, if it is below.
        note: Title of the legend.
    """
    empty = axes.flat[used:]
    for axis in empty:
        axis.set_axis_off()
    place = {"loc": "center"} if len(empty) else {"loc": "outside lower center", "ncols": columns}
    (empty[0] if len(empty) else figure).legend(
        *axes.flat[0].get_legend_handles_labels(),
        fontsize=SIZE,
        frameon=False,
        title=note,
        title_fontsize=SIZE,
        **place,
    )


def class_name(index: int, classes: Sequence[str] | None) -> str:
    """Return the name of a class, cut after 12 letters, or its number if there are no names."""
    name = str(index) if classes is None else " ".join(classes[index].split())  # in one line
    name = name.encode("utf-8", "backslashreplace").decode()  # of a folder whose name is not UTF-8
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def check_class_names(classes: Sequence[str] | None, count: int) -> None:
    """Raise `ValueError` if there are names, but fewer than `count`."""
    if classes is not None and len(classes) < count:
        raise ValueError(f"classes: expected {count} names, got {len(classes)}")
