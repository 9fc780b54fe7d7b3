"""Gallery: each clean image above its hard view, with the predictions of teacher and student for both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import nn

from hard_aug.batch import HardBatch
from hard_aug.models.eval_mode import eval_mode, unwrap_model
from hard_aug.viz.drawing import check_class_names, prediction_text, show_image


def gallery(batch: HardBatch, student: nn.Module, *, classes: Sequence[str] | None = None, columns: int = 8) -> Figure:
    """Draw the first images of a batch, clean and hard.

    Args:
        batch: Result of a call of a `HardAugmenter`.
        student: The student. It is evaluated on both views in evaluation mode; its modes are restored.
        classes: A name for each class; None: its number.
        columns: Number of images, at least 1.

    Returns:
        A figure of two rows. The text below each image is the predicted class with its probability, first the
        teacher's, then the student's. It is bold and red where it differs from the teacher's prediction on the clean
        image.

    Raises:
        ValueError: If the batch is empty, there is no column, or there are fewer names than classes.

    Example:
        >>> import torch
        >>> from hard_aug import HardAugmenter
        >>> from hard_aug.transforms import Affine
        >>> from hard_aug.viz import gallery
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> hard = HardAugmenter(teacher=network, student=network, transform=Affine())(torch.rand(4, 1, 8, 8))
        >>> len(gallery(hard, network, columns=3).axes)
        6
    """
    columns = min(columns, len(batch))
    if columns < 1:
        raise ValueError("expected at least one image and one column")
    check_class_names(classes, batch.teacher_logits.shape[1])
    student = unwrap_model(student)  # the forward of a wrapper may synchronise with other processes
    with torch.no_grad(), eval_mode(student):
        rows = [
            (batch.clean_images, batch.clean_teacher_logits, student(batch.clean_images)),
            (batch.images.detach(), batch.teacher_logits, student(batch.images.detach())),
        ]
    expected = batch.clean_teacher_logits.argmax(1)
    figure = Figure(figsize=(1.5 * columns, 4.1), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False)
    for row, (images, teacher_logits, student_logits) in enumerate(rows):
        for column in range(columns):
            axis = axes[row, column]
            show_image(axis, images[column])
            for line, (network, logits) in enumerate((("teacher", teacher_logits), ("student", student_logits))):
                text, top = prediction_text(logits[column], classes)
                text = f"{network}: {text}"
                axis.text(0.5, -0.04 - 0.13 * line, text, transform=axis.transAxes, ha="center", va="top", size=7.5)
                if top != int(expected[column]):
                    axis.texts[-1].set(color="tab:red", weight="bold")
        axes[row, 0].text(
            -0.12, 0.5, ("clean", "hard")[row], transform=axes[row, 0].transAxes, rotation=90, ha="right", va="center"
        )
    return figure
