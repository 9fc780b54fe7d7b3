"""Diagnosis as curves: over each parameter's range, where the teacher's predictions stay, where the student agrees."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hard_aug.diagnosis import Diagnosis, ParameterDiagnosis
from hard_aug.utils.checks import check_kinds
from hard_aug.viz.drawing import HARD, SIZE, STUDENT, TEACHER, WIDTH, add_legend

#: Ends of the labels of two diagnoses.
BEFORE, AFTER = ", before", ", after"


def draw_diagnosis(diagnosis: Diagnosis, *, before: Diagnosis | None = None, title: str = "") -> Figure:
    r"""Draw one panel for each row of a diagnosis, and in its title the transfer gap, which is shaded.

    The student's curve counts the images on which the teacher's prediction is unchanged and the student's is the same.
    The light bands are 95 % confidence intervals of the fractions for the number of images (Wilson's).

    Args:
        diagnosis: Result of `diagnose`.
        before: An earlier diagnosis of the same transform; its student is dashed, and so is its teacher if it differs.
        title: Title of the figure.

    Raises:
        TypeError: If an argument is no `Diagnosis`.
        ValueError: If the diagnoses have different parameters.

    Example:
        >>> import torch
        >>> from hard_aug import diagnose
        >>> from hard_aug.transforms import Affine
        >>> from hard_aug.viz import draw_diagnosis
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> result = diagnose(network, network, torch.rand(4, 1, 8, 8), Affine(scale=None, shear=None), values=3)
        >>> [axis.get_title() for axis in draw_diagnosis(result).axes]
        ['translation x\ntransfer gap 0 %', 'translation y\ntransfer gap 0 %', 'rotation\ntransfer gap 0 %']
    """
    check_kinds(diagnosis=(diagnosis, Diagnosis))
    if before is not None:
        check_kinds(before=(before, Diagnosis))
        diagnosis.check_same_parameters(before)
    columns = min(3, len(diagnosis.rows))
    lines = math.ceil(len(diagnosis.rows) / columns)
    figure = Figure(figsize=(WIDTH, 2.5 * lines + 0.7), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for index, (axis, row) in enumerate(zip(axes.flat, diagnosis.rows, strict=False)):
        _panel(axis, row, None if before is None else before.rows[index], diagnosis.images)
        if index % columns == 0:
            axis.set_ylabel("images (%)", size=SIZE)
    add_legend(figure, axes, len(diagnosis.rows), columns=3)
    if title:
        figure.suptitle(title, size=SIZE + 2, parse_math=False)
    return figure


def _panel(axis: Axes, row: ParameterDiagnosis, before: ParameterDiagnosis | None, images: int) -> None:
    title = f"{100 * row.transfer_gap:.0f} %"
    unchanged, agrees = "teacher's prediction unchanged", "student agrees"
    curves = {unchanged: row.teacher_consistency, f"{agrees}{AFTER if before else ''}": row.student_agreement}
    if before is not None:
        title = f"{100 * before.transfer_gap:.0f} % → {title}"
        curves[agrees + BEFORE] = before.student_agreement
        if before.teacher_consistency != row.teacher_consistency:
            curves[unchanged + BEFORE] = before.teacher_consistency
    for name, fractions in curves.items():
        axis.plot(
            before.values if before is not None and name.endswith(BEFORE) else row.values,
            100 * np.array(fractions),
            "--" if name.endswith(BEFORE) else "-",
            color=TEACHER if name.startswith(unchanged) else STUDENT,
            lw=3.5 if name == unchanged else 1.2,  # equal curves stay visible
            label=name,
        )
    teacher, student = (100 * np.array(one) for one in (row.teacher_consistency, row.student_agreement))
    axis.fill_between(row.values, student, teacher, color=HARD, alpha=0.35, lw=0, label="transfer gap")
    for values, color, label in ((teacher, TEACHER, None), (student, STUDENT, f"95 % confidence ({images} images)")):
        axis.fill_between(row.values, *_interval(values / 100, images), color=color, alpha=0.15, lw=0, label=label)
    if row.unit == "factor":
        axis.set_xscale("log")
        axis.set_xticks([row.values[0], 1.0, row.values[-1]], minor=False)
        axis.set_xticks([], minor=True)
        axis.xaxis.set_major_formatter("{x:.2f}")
    axis.set_ylim(0, 103)
    axis.set_title(f"{row.name.replace('_', ' ')}\ntransfer gap {title}", size=SIZE, parse_math=False)
    axis.set_xlabel(row.unit, size=SIZE, parse_math=False)
    axis.tick_params(labelsize=SIZE, which="both")


def _interval(found: np.ndarray, images: int) -> np.ndarray:
    """Return the ends of Wilson's 95 % confidence interval, `(2, N)` in %, of fractions `(N,)`."""
    z2 = 1.96**2 / images
    half, centre = np.sqrt(z2 * (found * (1 - found) + z2 / 4)), found + z2 / 2
    return 100 * np.stack((centre - half, centre + half)) / (1 + z2)
