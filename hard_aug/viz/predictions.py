"""Class probabilities of teacher and student as bars, for each clean image and its hard view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from hard_aug.batch import HardBatch
from hard_aug.models.network import Network
from hard_aug.viz.drawing import SIZE, STUDENT, TEACHER, WIDTH, add_legend, check_class_names, class_name, show_image


def draw_predictions(
    batch: HardBatch, student: nn.Module, *, rows: int = 4, classes: Sequence[str] | None = None, top: int = 10
) -> Figure:
    """Draw the images of a batch with the largest disagreement, and the probabilities of both networks.

    Args:
        batch: Result of a call of a `HardAugmenter`.
        student: The student. It is evaluated on both views in evaluation mode; its modes are restored.
        rows: Number of images, at least 1.
        classes: A name for each class; None: its number.
        top: Number of classes shown, at least 1; if there are more, those with the largest probability in any bar.

    Returns:
        A figure with a row for each image: the clean image, its bars, the hard image, its bars.

    Raises:
        ValueError: If the batch is empty, there is no row or class to show, or there are fewer names than classes.

    Example:
        >>> import torch
        >>> from hard_aug import HardAugmenter
        >>> from hard_aug.transforms import Affine
        >>> from hard_aug.viz import draw_predictions
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> hard = HardAugmenter(teacher=network, student=network, transform=Affine())(torch.rand(4, 1, 8, 8))
        >>> len(draw_predictions(hard, network, rows=2).axes)
        8
    """
    rows = min(rows, len(batch))
    if rows < 1 or top < 1:
        raise ValueError("expected a batch of at least one image, and at least one row and one class to show")
    count = batch.teacher_logits.shape[1]
    check_class_names(classes, count)
    chosen = batch.disagreement.argsort(descending=True)[:rows]
    network = Network(student, name="student", normalization=batch.normalization)
    views = [batch.clean_images[chosen], batch.images[chosen].detach()]
    teachers = [batch.clean_teacher_logits[chosen], batch.teacher_logits[chosen]]
    probabilities = [
        torch.stack((logits.float().softmax(1), network.evaluate(view).float().softmax(1)), 1).cpu()
        for logits, view in zip(teachers, views, strict=True)
    ]
    figure = Figure(figsize=(WIDTH, (1.6 if classes is None else 2.2) * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False, width_ratios=(1, 2.1, 1, 2.1))
    for row in range(rows):
        highest = torch.stack([both[row].amax(0) for both in probabilities]).amax(0)
        shown = highest.topk(min(top, count)).indices.sort().values
        for pair in range(2):
            show_image(axes[row, 2 * pair], views[pair][row])
            _bars(axes[row, 2 * pair + 1], probabilities[pair][row][:, shown], shown.tolist(), classes)
    for pair, name in enumerate(("clean", "hard")):
        axes[0, 2 * pair].set_title(f"{name} image", size=SIZE)
        axes[0, 2 * pair + 1].set_title(f"predictions, {name} image", size=SIZE)
    add_legend(figure, axes[:, 1:], axes[:, 1:].size, columns=2)
    return figure


def _bars(axis: Axes, probabilities: Tensor, shown: list[int], classes: Sequence[str] | None) -> None:
    """Draw the bars of the teacher and of the student, `(2, k)`, for the classes `shown`."""
    networks = (("teacher", TEACHER, -0.2), ("student", STUDENT, 0.2))
    for values, (name, color, offset) in zip(probabilities, networks, strict=True):
        axis.bar([place + offset for place in range(len(shown))], values.numpy(), 0.4, color=color, label=name)
    names = [class_name(index, classes) for index in shown]
    axis.set_xticks(
        range(len(shown)), names, size=SIZE, rotation=0 if max(map(len, names)) < 3 else 60, parse_math=False
    )
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1], ["0", "", "1"], size=SIZE)
    axis.set_ylabel("probability", size=SIZE, labelpad=0)
    axis.spines[["top", "right"]].set_visible(False)
