"""Gallery: the hardest images of a batch, clean and hard, with the predictions of the teacher and of students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor, nn

from hard_aug.batch import HardBatch
from hard_aug.models.network import Network
from hard_aug.ops.elementwise import unit_interval
from hard_aug.utils.checks import check_kinds
from hard_aug.viz.drawing import (
    LINE,
    MARKS,
    SIZE,
    WIDTH,
    check_class_names,
    class_name,
    drawn_text,
    show_image,
    show_predictions,
    write_below,
)

#: Number of drawn parameters below a hard image: those farthest from the identity relative to their ranges.
PARAMETERS = 2
#: Root-mean-square change of the pixels, in [0, 1], below which an edit is hard to see.
SMALL_CHANGE = 0.05


def gallery(
    batch: HardBatch,
    student: nn.Module | Mapping[str, nn.Module],
    *,
    classes: Sequence[str] | None = None,
    labels: Tensor | None = None,
    columns: int = 6,
    difference: bool | None = None,
    unit: str = "nats",
    title: str = "",
    step: int | None = None,
) -> Figure:
    """Draw the hard images of a batch with the largest disagreement, the largest first, below their clean images.

    Below each image are the predicted classes with their probabilities, and below a hard image the two drawn
    parameters farthest from the identity (content shifted by positive values moves right and down) and the
    disagreement. A prediction that differs from the teacher's on the clean image is bold; a frame marks images on which
    the teacher's prediction is unchanged and a student's differs from it.

    Args:
        batch: Result of a call of a `HardAugmenter`.
        student: The student, or several by name. They are evaluated in evaluation mode; their modes are restored. The
            disagreement is that of the augmenter's student.
        classes: A name for each class; None: its number.
        labels: True classes `(B,)`, written above the images; None: unknown.
        columns: Largest number of images, at least 1. More than 6 are too small for a page.
        difference: Add a row with the amplified difference, hard minus clean; None: if the changes are hard to see.
        unit: Unit of the disagreement.
        title: Title of the figure; by default it says how many images are shown.
        step: Training step, for the title.

    Raises:
        ValueError: If the batch is empty, there is no column or student, or there are fewer names than classes.

    Example:
        >>> import torch
        >>> from hard_aug import HardAugmenter
        >>> from hard_aug.transforms import Affine
        >>> from hard_aug.viz import gallery
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> hard = HardAugmenter(teacher=network, student=network, transform=Affine())(torch.rand(4, 1, 8, 8))
        >>> len(gallery(hard, network, columns=3, difference=False).axes)
        6
    """
    check_kinds(batch=(batch, HardBatch))
    students = student if isinstance(student, Mapping) else {"student": student}
    count = batch.num_hard or len(batch)  # in a warm-up all images are clean
    columns = min(columns, count)
    if columns < 1 or not students:
        raise ValueError("expected at least one image, one column and one student")
    check_class_names(classes, batch.teacher_logits.shape[1])
    disagreement = batch.disagreement[:count]
    chosen = disagreement.argsort(descending=True)[:columns]
    clean, hard = batch.clean_images[chosen], batch.images[chosen].detach()
    rows = [
        (clean, {"teacher": batch.clean_teacher_logits[chosen]}),
        (hard, {"teacher": batch.teacher_logits[chosen]}),
    ]
    models = {name: Network(model, name=name, normalization=batch.normalization) for name, model in students.items()}
    for images, logits in rows:
        logits |= {name: model.evaluate(images) for name, model in models.items()}
    change = (hard - clean).float()
    largest = float(change.abs().max()) or 1.0
    difference = 0 < float(change.square().mean().sqrt()) < SMALL_CHANGE if difference is None else difference
    networks, drawn = len(students) + 1, min(PARAMETERS, len(batch.spec))
    below = [networks, networks + drawn + 1, 0][: 2 + difference]  # lines of text below each row
    height = 1.3 * len(below) + LINE * sum(below) + 0.8
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(h_pad=0.08))
    axes = figure.subplots(len(below), columns, squeeze=False)
    for column, index in enumerate(chosen.tolist()):
        expected = int(batch.clean_teacher_logits[index].argmax())
        for axis, (images, logits) in zip(axes[:, column], rows, strict=False):
            own = {name: values[column] for name, values in logits.items()}
            show_predictions(axis, images[column], own, expected, classes, named=column == 0)
        largest_first = unit_interval(batch.u[index]).abs().argsort(descending=True)
        parameters = [batch.spec[place] for place in largest_first[:drawn].tolist()]
        names = ("drawn", *[""] * (drawn - 1), "disagreement")
        texts = [
            *(drawn_text(one, float(batch.params[one.name][index]), hard.shape[-2:]) for one in parameters),
            f"{float(disagreement[index]):.2f} {unit}",
        ]
        for line, (name, text) in enumerate(zip(names, texts, strict=True), networks):
            write_below(axes[1, column], line, text, "" if column else name)
        if difference:
            show_image(axes[2, column], 0.5 + change[column] / (2 * largest))
        if labels is not None:
            axes[0, column].set_title(f"label {class_name(int(labels[index]), classes)}", size=SIZE, parse_math=False)
    for axis, name in zip(axes[:, 0], ("clean", "hard", f"difference,\nfactor {0.5 / largest:.1f}"), strict=False):
        axis.set_ylabel(name, size=SIZE)
    title = title or f"{columns} of {len(batch)} images, those with the largest disagreement"
    figure.suptitle(title + ("" if step is None else f", step {step}"), size=SIZE + 2, parse_math=False)
    figure.supxlabel(MARKS, size=SIZE)
    return figure
