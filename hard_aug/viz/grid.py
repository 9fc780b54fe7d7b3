"""Grid over one parameter: images in rows, values in columns, and where each network's prediction changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from hard_aug.diagnosis.diagnose import END
from hard_aug.inner_loop.networks import Networks
from hard_aug.models.eval_mode import eval_mode
from hard_aug.transforms import Context, Transform, make_context
from hard_aug.utils.checks import check_images, check_kinds, check_same_classes
from hard_aug.viz.drawing import HARD, STUDENT, TEACHER, check_class_names, prediction_text, show_image


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
    """Move one parameter over its range, the others at the identity, and draw the images with both predictions.

    Args:
        teacher: From images in [0, 1] to logits. Runs in evaluation mode; its modes are restored.
        student: From images in [0, 1] to logits. Runs in evaluation mode; its modes are restored.
        images: `(N, C, H, W)` in [0, 1], one row each; a few.
        transform: The transform.
        parameter: Name of the parameter in `transform.spec`.
        columns: Number of values, at least 2, evenly spaced over the range (for a factor over its logarithm).
        classes: A name for each class; None: its number.
        seed: Seed of the noise, if the transform adds any.

    Returns:
        A figure. A prediction that differs from the same network's on the clean image is bold and coloured. A frame in
        orange marks images where the teacher's prediction is unchanged and the student's is not: an invariance to
        transfer.

    Raises:
        TypeError: If an argument or the images have the wrong type.
        ValueError: If the images have the wrong shape or range or there are none, the parameter is unknown, there are
            fewer than two columns or fewer names than classes, or the transform mixes images.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Affine
        >>> from hard_aug.viz import parameter_grid
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> figure = parameter_grid(network, network, torch.rand(2, 1, 8, 8), Affine(), "rotation", columns=3)
        >>> [axis.get_title() for axis in figure.axes[:3]]
        ['-34', '0', '34']
    """
    check_kinds(teacher=(teacher, nn.Module), student=(student, nn.Module), transform=(transform, Transform))
    images = check_images(images)
    names = [one.name for one in transform.spec]
    if parameter not in names:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise ValueError(f"parameter={parameter!r}: expected one of {shown}")
    if not len(images) or columns < 2:
        raise ValueError(f"{len(images)} images and columns={columns}: expected at least one image and two columns")
    if transform.requires_partner:
        raise ValueError(
            f"{type(transform).__name__} mixes images, so there is no grid for a single image; use gallery instead"
        )
    networks = Networks(teacher=teacher, student=student)
    u = _over_the_range(transform, names.index(parameter), columns).to(images.device)
    values = transform.decode(u)[parameter].tolist()
    context = make_context(transform, images, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad(), eval_mode(networks.teacher, networks.student):
        clean = [networks.teacher_logits(images), networks.student_logits(images)]
        check_same_classes(teacher_logits=clean[0], student_logits=clean[1])
        check_class_names(classes, clean[0].shape[1])
        rows = []
        for index, image in enumerate(images):
            noise = None if context.noise is None else context.noise[index].expand(columns, -1, -1, -1)
            views = transform.render(image.expand(columns, -1, -1, -1), u, Context(noise=noise))
            rows.append((views, networks.teacher_logits(views), networks.student_logits(views)))
    figure = Figure(figsize=(1.12 * columns + 0.3, 1.52 * len(images) + 0.6), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    for row, (views, *predictions) in enumerate(rows):
        expected = [int(logits[row].argmax()) for logits in clean]
        for column in range(columns):
            logits = [one[column] for one in predictions]
            _cell(axes[row, column], views[column], logits, expected, classes)
    for axis, value in zip(axes[0], values, strict=True):
        axis.set_title(f"{float(f'{value:.2g}'):g}", size=9)  # 120 and not 1.2e+02
    unit = transform.spec[names.index(parameter)].unit
    figure.suptitle(f"{parameter.replace('_', ' ')}, {unit}   (t: teacher, s: student)", size=10)
    return figure


def _cell(axis: Axes, view: Tensor, logits: list[Tensor], expected: list[int], classes: Sequence[str] | None) -> None:
    """Draw one image with both predictions; `expected` are the classes that both predict for the clean image."""
    show_image(axis, view)
    changed = []
    for line, (letter, color) in enumerate((("t", TEACHER), ("s", STUDENT))):
        text, top = prediction_text(logits[line], classes)
        changed.append(top != expected[line])
        text = f"{letter}: {text}"
        axis.text(0.5, -0.05 - 0.15 * line, text, transform=axis.transAxes, ha="center", va="top", size=7.5)
        if changed[line]:
            axis.texts[-1].set(color=color, weight="bold")
    framed = changed[1] and not changed[0]
    for spine in axis.spines.values():
        spine.set(color=HARD if framed else "0.7", linewidth=3 if framed else 0.5)


def _over_the_range(transform: Transform, index: int, columns: int) -> Tensor:
    """Return `u`, `(columns, P)`: zeros, except one parameter, whose values are evenly spaced over its range."""
    low = 0.0 if transform.spec[index].one_sided else -END
    fractions = torch.linspace(low, END, columns)
    u = torch.zeros(columns, transform.size)
    u[:, index] = torch.special.ndtri((1 + fractions) / 2)
    return u
