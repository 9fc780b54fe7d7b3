"""Grid over one parameter: images in rows, values in columns, and where the predictions change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from hard_aug.diagnosis.diagnose import END
from hard_aug.inner_loop.image_check import ImageCheck
from hard_aug.inner_loop.networks import Networks
from hard_aug.models.normalized import NetworkNormalizations, Pair
from hard_aug.transforms import Context, Transform, make_context
from hard_aug.utils.checks import as_seed, check_kinds, check_same_classes
from hard_aug.viz.drawing import LINE, MARKS, SIZE, WIDTH, check_class_names, prediction_text, show_predictions


def parameter_grid(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    transform: Transform,
    parameter: str,
    *,
    columns: int = 9,
    classes: Sequence[str] | None = None,
    normalization: Pair | Mapping[str, Pair] | None = None,
    seed: int = 0,
) -> Figure:
    """Move one parameter over its range, the others at the identity, and draw the images with both predictions.

    Args:
        teacher: From images in [0, 1] to logits. Runs in evaluation mode; its modes are restored.
        student: From images in [0, 1] to logits. Runs in evaluation mode; its modes are restored.
        images: `(N, C, H, W)` in [0, 1] (or normalised, see `normalization`), one row each; a few.
        transform: The transform.
        parameter: Name of the parameter in `transform.spec`.
        columns: Number of values, at least 2, evenly spaced over the range (for a factor over its logarithm).
        classes: A name for each class; None: its number.
        normalization: As for `HardAugmenter`, of images and networks.
        seed: Seed of the noise, if the transform adds any.

    Returns:
        A figure. A prediction that differs from the teacher's on the clean image is bold. A frame marks images where
        the teacher's prediction is unchanged and the student's differs from it: an invariance to transfer.

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
    normalizations = None if normalization is None else NetworkNormalizations.parse(normalization)
    networks = Networks(teacher=teacher, student=student, normalization=normalizations)
    images = ImageCheck(networks.device, None if normalizations is None else normalizations.student)(images)
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
    u = _over_the_range(transform, names.index(parameter), columns).to(images.device)
    values = transform.decode(u)[parameter].tolist()
    context = make_context(transform, images, generator=torch.Generator().manual_seed(as_seed(seed)))
    with torch.no_grad(), networks.eval_mode():
        clean = [networks.teacher(images), networks.student(images)]
        check_same_classes(teacher_logits=clean[0], student_logits=clean[1])
        check_class_names(classes, clean[0].shape[1])
        rows = []
        for index, image in enumerate(images):
            noise = None if context.noise is None else context.noise[index].expand(columns, -1, -1, -1)
            views = transform.render(image.expand(columns, -1, -1, -1), u, Context(noise=noise))
            rows.append((views, networks.teacher(views), networks.student(views)))
    longest = max(len(prediction_text(one, classes)[0]) for _, *logits in rows for both in logits for one in both)
    width = max((WIDTH - 0.8) / columns, 0.075 * longest)  # of an image, inches
    figure = Figure(figsize=(width * columns + 0.8, (width + 2.6 * LINE) * len(images) + 0.8), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    for row, (views, *predictions) in enumerate(rows):
        expected = int(clean[0][row].argmax())
        for column in range(columns):
            logits = {name: one[column] for name, one in zip(("teacher", "student"), predictions, strict=True)}
            show_predictions(axes[row, column], views[column], logits, expected, classes, named=column == 0)
    for axis, value in zip(axes[0], values, strict=True):
        axis.set_title(f"{float(f'{value:.2g}'):g}", size=SIZE)  # 120 and not 1.2e+02
    title = f"{parameter.replace('_', ' ')}, {transform.spec[names.index(parameter)].unit}"
    figure.suptitle(title, size=SIZE + 2, parse_math=False)
    figure.supxlabel(MARKS, size=SIZE)
    return figure


def _over_the_range(transform: Transform, index: int, columns: int) -> Tensor:
    """Return `u`, `(columns, P)`: zeros, except one parameter, whose values are evenly spaced over its range."""
    low = 0.0 if transform.spec[index].one_sided else -END
    fractions = torch.linspace(low, END, columns, dtype=torch.float32, device="cpu")
    u = fractions.new_zeros(columns, transform.size)
    u[:, index] = torch.special.ndtri((1 + fractions) / 2)
    return u
