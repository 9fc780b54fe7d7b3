"""A gallery: each clean image above its hard one, with what teacher and student answer to both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from hard_aug.batch import HardBatch
from hard_aug.models.guard import evaluation_mode, unwrapped


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
    if classes is not None and len(classes) < batch.teacher_logits.shape[1]:
        raise ValueError(f"{len(classes)} names for {batch.teacher_logits.shape[1]} classes")
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
            _show(axis, images[column])
            answers = [("teacher", teacher_logits[column]), ("student", student_logits[column])]
            for line, (player, logits) in enumerate(answers):
                text, top = _answer(player, logits, classes)
                color = "black" if top == int(truth[column]) else "tab:red"
                axis.text(0.5, -0.04 - 0.13 * line, text, transform=axis.transAxes, ha="center", va="top", size=7.5)
                axis.texts[-1].set_color(color)
        axes[row, 0].text(
            -0.12, 0.5, ("clean", "hard")[row], transform=axes[row, 0].transAxes, rotation=90, ha="right", va="center"
        )
    return figure


def _answer(player: str, logits: Tensor, classes: Sequence[str] | None) -> tuple[str, int]:
    probability, top = logits.float().softmax(0).max(0)
    name = str(int(top)) if classes is None else classes[int(top)]
    return f"{player}: {name}, {100 * float(probability):.0f} %", int(top)


def _show(axis: Axes, image: Tensor) -> None:
    pixels = image.detach().float().clamp(0, 1).cpu()
    if pixels.shape[0] in (3, 4):
        axis.imshow(pixels[:3].permute(1, 2, 0).numpy())
    else:
        axis.imshow(pixels.mean(0).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])
