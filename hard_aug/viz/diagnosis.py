"""Diagnosis as curves: the fraction of unchanged predictions of each network over each parameter's range."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hard_aug.diagnosis import Diagnosis, ParameterDiagnosis
from hard_aug.viz.drawing import HARD, STUDENT, TEACHER


def draw_diagnosis(diagnosis: Diagnosis, *, before: Diagnosis | None = None, title: str = "") -> Figure:
    """Draw one panel for each row of a diagnosis; the area of the transfer gap is shaded.

    Args:
        diagnosis: Result of `diagnose`.
        before: An earlier diagnosis of the same transform; its student is dashed.
        title: Title of the figure.

    Raises:
        ValueError: If the diagnoses have different parameters.

    Example:
        >>> import torch
        >>> from hard_aug import diagnose
        >>> from hard_aug.transforms import Affine
        >>> from hard_aug.viz import draw_diagnosis
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> result = diagnose(network, network, torch.rand(4, 1, 8, 8), Affine(scale=None, shear=None), values=3)
        >>> [axis.get_title() for axis in draw_diagnosis(result).axes]
        ['translation x: gap 0 %', 'translation y: gap 0 %', 'rotation: gap 0 %']
    """
    if before is not None:
        diagnosis.check_same_parameters(before)
    columns = min(4, len(diagnosis.rows))
    lines = math.ceil(len(diagnosis.rows) / columns)
    figure = Figure(figsize=(3.0 * columns, 2.5 * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for index, (axis, row) in enumerate(zip(axes.flat, diagnosis.rows, strict=False)):
        _panel(axis, row, None if before is None else before.rows[index])
        if index % columns == 0:
            axis.set_ylabel("predictions unchanged (%)", size=8)
    for axis in axes.flat[len(diagnosis.rows) :]:
        axis.set_visible(False)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4, frameon=False
    )
    if title:
        figure.suptitle(title, size=10)
    return figure


def _panel(axis: Axes, row: ParameterDiagnosis, before: ParameterDiagnosis | None) -> None:
    teacher, student = (
        [100 * fraction for fraction in consistency]
        for consistency in (row.teacher_consistency, row.student_consistency)
    )
    axis.fill_between(
        row.values,
        student,
        teacher,
        where=[t > s for t, s in zip(teacher, student, strict=True)],
        interpolate=True,
        color=HARD,
        alpha=0.25,
        lw=0,
        label="transfer gap",
    )
    axis.plot(row.values, teacher, color=TEACHER, lw=3, alpha=0.7, label="teacher")  # visible below the student's line
    axis.plot(row.values, student, color=STUDENT, lw=1.2, label="student" if before is None else "student after")
    if before is not None:
        earlier = [100 * fraction for fraction in before.student_consistency]
        axis.plot(row.values, earlier, color=STUDENT, ls="--", lw=1, label="student before")
    if row.unit == "factor":
        axis.set_xscale("log")
        axis.set_xticks([row.values[0], 1.0, row.values[-1]], minor=False)
        axis.set_xticks([], minor=True)
        axis.xaxis.set_major_formatter("{x:.2f}")
    axis.set_ylim(0, 103)
    axis.set_title(f"{row.name.replace('_', ' ')}: gap {100 * row.transfer_gap:.0f} %", size=9)
    axis.set_xlabel(row.unit, size=8)
    axis.tick_params(labelsize=7, which="both")
