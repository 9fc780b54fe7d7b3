"""A grid over one parameter: images by rows, its values by columns, and where each player's answer changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from hard_aug.checks import check_images, check_kinds, check_same_classes
from hard_aug.diagnosis import END
from hard_aug.models.guard import evaluation_mode
from hard_aug.players import Players
from hard_aug.transforms import Context, Transform
from hard_aug.viz.pictures import HARD, STUDENT, TEACHER, answer, check_names, show


def parameter_grid(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    transform: Transform,
    parameter: str,
    *,
    columns: int = 9,
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> Figure:
    """Move one parameter over its range, the others at the identity, and write under each image what both answer.

    Args:
        teacher, student: from images in [0, 1] to logits. Run in evaluation mode, left as they were.
        images: `(N, C, H, W)` in [0, 1], a row each; a few.
        transform: what may be done to an image.
        parameter: its name in `transform.spec`.
        columns: how many values, at least 2, evenly spread over the range (of a factor over its logarithm).
        classes: a name for each class; None: its number.
        seed: of noise, where the transform adds any.

    Returns:
        A figure. An answer that differs from the same player's to the untouched image is bold and in its colour; an
        orange frame is where the teacher keeps its answer and the student does not: there is something to transfer.

    Raises:
        TypeError, ValueError: images of wrong type, shape or range, no image, an unknown parameter, fewer than two
            columns, fewer names than classes, or a transform that mixes images, which has no grid.
    """
    check_kinds(teacher=(teacher, nn.Module), student=(student, nn.Module), transform=(transform, Transform))
    images = check_images(images)
    names = [one.name for one in transform.spec]
    if parameter not in names:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise ValueError(f"parameter {parameter!r}: wanted one of {shown}")
    if not len(images) or columns < 2:
        raise ValueError(f"{len(images)} images and columns={columns}: wanted at least one image and two columns")
    if transform.wants_partner:
        raise ValueError(f"{type(transform).__name__} mixes images, so none has a grid of its own; use gallery")
    players = Players(teacher=teacher, student=student)
    u = _over_the_range(transform, names.index(parameter), columns).to(images.device)
    values = transform.decode(u)[parameter].tolist()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images)
    with torch.no_grad(), evaluation_mode(players.teacher, players.student):
        clean = [players.teacher_logits(images), players.student_logits(images)]
        check_same_classes(teacher_logits=clean[0], student_logits=clean[1])
        check_names(classes, clean[0].shape[1])
        rows = []
        for index, image in enumerate(images):
            context = Context(noise=noise[index].expand(columns, -1, -1, -1))
            views = transform.render(image.expand(columns, -1, -1, -1), u, context)
            rows.append((views, players.teacher_logits(views), players.student_logits(views)))
    figure = Figure(figsize=(1.12 * columns + 0.3, 1.52 * len(images) + 0.6), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    for row, (views, *answers) in enumerate(rows):
        own = [int(logits[row].argmax()) for logits in clean]
        for column in range(columns):
            logits = [one[column] for one in answers]
            _cell(axes[row, column], views[column], logits, own, classes)
    for axis, value in zip(axes[0], values, strict=True):
        axis.set_title(f"{float(f'{value:.2g}'):g}", size=9)  # 120 and not 1.2e+02
    unit = transform.spec[names.index(parameter)].unit
    figure.suptitle(f"{parameter.replace('_', ' ')}, {unit}   (t: teacher, s: student)", size=10)
    return figure


def _cell(axis: Axes, view: Tensor, logits: list[Tensor], own: list[int], classes: Sequence[str] | None) -> None:
    show(axis, view)
    changed = []
    for line, (letter, color) in enumerate((("t", TEACHER), ("s", STUDENT))):
        text, top = answer(logits[line], classes)
        changed.append(top != own[line])
        text = f"{letter}: {text}"
        axis.text(0.5, -0.05 - 0.15 * line, text, transform=axis.transAxes, ha="center", va="top", size=7.5)
        if changed[line]:
            axis.texts[-1].set(color=color, weight="bold")
    framed = changed[1] and not changed[0]
    for spine in axis.spines.values():
        spine.set(color=HARD if framed else "0.7", linewidth=3 if framed else 0.5)


def _over_the_range(transform: Transform, index: int, columns: int) -> Tensor:
    """`(columns, P)`: zeros but for the parameter, whose decoded values are evenly spread over its range."""
    low = 0.0 if transform.spec[index].one_sided else -END
    shares = torch.linspace(low, END, columns)
    u = torch.zeros(columns, transform.size)
    u[:, index] = torch.special.ndtri((1 + shares) / 2)
    return u
