"""Teacher's and student's answers as bars: all classes, for each clean image and its hard view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from hard_aug.batch import HardBatch
from hard_aug.models.guard import evaluation_mode, unwrapped
from hard_aug.viz.pictures import STUDENT, TEACHER, check_names, class_name, show


def draw_answers(
    batch: HardBatch, student: nn.Module, *, rows: int = 4, classes: Sequence[str] | None = None, top: int = 10
) -> Figure:
    """Draw the images of a batch on which the players disagree most, and the probabilities that both give.

    Args:
        batch: what a `HardAugmenter` returned.
        student: asked on both views, in evaluation mode; left as it was.
        rows: how many images, at least 1.
        classes: a name for each class; None: its number.
        top: classes that are shown, at least 1: where there are more, those with the largest probability in any bar.

    Returns:
        A figure with a row for each image: the clean one, its bars, the hard one, its bars.

    Raises:
        ValueError: an empty batch, no row or class to show, or fewer names than classes.
    """
    rows = min(rows, len(batch))
    if rows < 1 or top < 1:
        raise ValueError("wanted a batch of at least one image, and at least one row and one class to show")
    count = batch.teacher_logits.shape[1]
    check_names(classes, count)
    chosen = batch.disagreement.argsort(descending=True)[:rows]
    student = unwrapped(student)  # a wrapper's forward may wait for other processes
    with torch.no_grad(), evaluation_mode(student):
        views = [batch.clean_images[chosen], batch.images[chosen].detach()]
        teachers = [batch.clean_teacher_logits[chosen], batch.teacher_logits[chosen]]
        probabilities = [
            torch.stack((logits.float().softmax(1), student(view).float().softmax(1)), 1).cpu()
            for logits, view in zip(teachers, views, strict=True)
        ]
    figure = Figure(figsize=(9.0, 1.55 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False, width_ratios=(1, 2.1, 1, 2.1))
    for row in range(rows):
        highest = torch.stack([both[row].amax(0) for both in probabilities]).amax(0)
        shown = highest.topk(min(top, count)).indices.sort().values
        for pair in range(2):
            show(axes[row, 2 * pair], views[pair][row])
            _bars(axes[row, 2 * pair + 1], probabilities[pair][row][:, shown], shown.tolist(), classes)
    for pair, name in enumerate(("clean", "hard")):
        axes[0, 2 * pair].set_title(name, size=10)
    axes[0, 1].legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.32), ncols=2, frameon=False)
    return figure


def _bars(axis: Axes, probabilities: Tensor, shown: list[int], classes: Sequence[str] | None) -> None:
    """`probabilities`: `(2, k)`, the teacher's and the student's of the classes `shown`."""
    players = (("teacher", TEACHER, -0.2), ("student", STUDENT, 0.2))
    for values, (name, color, offset) in zip(probabilities, players, strict=True):
        axis.bar([place + offset for place in range(len(shown))], values.numpy(), 0.4, color=color, label=name)
    names = [class_name(index, classes) for index in shown]
    axis.set_xticks(range(len(shown)), names, size=7, rotation=0 if max(map(len, names)) < 3 else 60)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1], ["0", "", "1"], size=7)
    axis.spines[["top", "right"]].set_visible(False)
