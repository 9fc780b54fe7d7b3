"""A gallery: each clean image above its hard one, with what teacher and student answer to both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import nn

from hard_aug.batch import HardBatch
from hard_aug.models.guard import evaluation_mode, unwrapped
from hard_aug.viz.pictures import answer, check_names, show


def gallery(batch: HardBatch, student: nn.Module, *, classes: Sequence[str] | None = None, columns: int = 8) -> Figure:
    """Draw the first `columns` images of a batch.

    Args:
        batch: what a `HardAugmenter` returned.
        student: asked on both views, in evaluation mode; left as it was.
        classes: a name for each class; None: its number.
        columns: how many images, at least 1.

    Returns:
        A figure of two rows. Under each image stand the top class and its probability, the teacher's above the
        student's, in red where it is not the teacher's answer to the clean image.

    Raises:
        ValueError: an empty batch, or fewer names than classes.
    """
    columns = min(columns, len(batch))
    if columns < 1:
        raise ValueError("a gallery wants at least one image and one column")
    check_names(classes, batch.teacher_logits.shape[1])
    student = unwrapped(student)  # a wrapper's forward may wait for other processes
    with torch.no_grad(), evaluation_mode(student):
        rows = [
            (batch.clean_images, batch.clean_teacher_logits, student(batch.clean_images)),
            (batch.images.detach(), batch.teacher_logits, student(batch.images.detach())),
        ]
    truth = batch.clean_teacher_logits.argmax(1)
    figure = Figure(figsize=(1.5 * columns, 4.1), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    for row, (images, teacher_logits, student_logits) in enumerate(rows):
        for column in range(columns):
            axis = axes[row, column]
            show(axis, images[column])
            answers = [("teacher", teacher_logits[column]), ("student", student_logits[column])]
            for line, (player, logits) in enumerate(answers):
                text, top = answer(logits, classes)
                text = f"{player}: {text}"
                color = "black" if top == int(truth[column]) else "tab:red"
                axis.text(0.5, -0.04 - 0.13 * line, text, transform=axis.transAxes, ha="center", va="top", size=7.5)
                axis.texts[-1].set_color(color)
        axes[row, 0].text(
            -0.12, 0.5, ("clean", "hard")[row], transform=axes[row, 0].transAxes, rotation=90, ha="right", va="center"
        )
    return figure
