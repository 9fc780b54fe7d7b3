"""A diagnosis as curves: how often each player keeps its answer, over each parameter's range."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hard_aug.diagnosis import Diagnosis, ParameterDiagnosis


def draw_diagnosis(diagnosis: Diagnosis, *, before: Diagnosis | None = None, title: str = "") -> Figure:
    """Draw one panel for each row; what there is to transfer is shaded.

    Args:
        diagnosis: what `diagnose` returned.
        before: an earlier one of the same transform, whose student is dashed.
        title: above all.

    Raises:
        ValueError: diagnoses of different transforms.
    """
    if before is not None and [row.name for row in before.rows] != [row.name for row in diagnosis.rows]:
        raise ValueError("diagnoses of different transforms: the parameters' names differ")
    columns = min(4, len(diagnosis.rows))
    lines = math.ceil(len(diagnosis.rows) / columns)
    figure = Figure(figsize=(3.0 * columns, 2.5 * lines + 0.3), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for index, (axis, row) in enumerate(zip(axes.flat, diagnosis.rows, strict=False)):
        _panel(axis, row, None if before is None else before.rows[index])
        if index % columns == 0:
            axis.set_ylabel("images with the answer kept, %", size=8)
    for axis in axes.flat[len(diagnosis.rows) :]:
        axis.set_visible(False)
    axes[0, 0].legend(fontsize=7, loc="lower center")
    if title:
        figure.suptitle(title, size=10)
    return figure


def _panel(axis: Axes, row: ParameterDiagnosis, before: ParameterDiagnosis | None) -> None:
    teacher, student = ([100 * share for share in keeps] for keeps in (row.teacher_keeps, row.student_keeps))
    axis.fill_between(
        row.values,
        student,
        teacher,
        where=[t > s for t, s in zip(teacher, student, strict=True)],
        interpolate=True,
        color="tab:orange",
        alpha=0.25,
        lw=0,
        label="to transfer",
    )
    axis.plot(row.values, teacher, color="tab:blue", label="teacher")
    axis.plot(row.values, student, color="tab:red", label="student")
    if before is not None:
        earlier = [100 * share for share in before.student_keeps]
        axis.plot(row.values, earlier, color="tab:red", ls="--", lw=1, label="student before")
    if row.unit == "factor":
        axis.set_xscale("log")
        axis.set_xticks([row.values[0], 1.0, row.values[-1]], minor=False)
        axis.set_xticks([], minor=True)
        axis.xaxis.set_major_formatter("{x:.2f}")
    axis.set_ylim(0, 103)
    axis.set_title(f"{row.name.replace('_', ' ')}: {100 * row.to_transfer:.0f} %", size=9)
    axis.set_xlabel(row.unit, size=8)
    axis.tick_params(labelsize=7, which="both")
