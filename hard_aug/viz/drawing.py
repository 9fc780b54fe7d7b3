"""Helpers of all figures: colours, an image without axes, and the text of a prediction."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from torch import Tensor

#: In every figure the teacher is blue and the student red; what is to be transferred is orange.
TEACHER, STUDENT, HARD = "tab:blue", "tab:red", "tab:orange"


def show_image(axis: Axes, image: Tensor) -> None:
    """Draw an image: in colour if it has 3 or 4 channels, else the mean of its channels in grey.

    Args:
        axis: Where to draw.
        image: `(C, H, W)` in [0, 1].
    """
    pixels = image.detach().float().clamp(0, 1).cpu()
    if pixels.shape[0] in (3, 4):
        axis.imshow(pixels[:3].permute(1, 2, 0).numpy())
    else:
        axis.imshow(pixels.mean(0).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])


def prediction_text(logits: Tensor, classes: Sequence[str] | None) -> tuple[str, int]:
    """Format the predicted class with its probability.

    Args:
        logits: `(K,)`.
        classes: A name for each class; None: its number.

    Returns:
        The text, and the index of the class.
    """
    probability, top = logits.float().softmax(0).max(0)
    return f"{class_name(int(top), classes)}, {100 * float(probability):.0f} %", int(top)


def class_name(index: int, classes: Sequence[str] | None) -> str:
    """Return the name of a class, or its number if there are no names."""
    return str(index) if classes is None else classes[index]


def check_class_names(classes: Sequence[str] | None, count: int) -> None:
    """Raise `ValueError` if there are names, but fewer than `count`."""
    if classes is not None and len(classes) < count:
        raise ValueError(f"classes: expected {count} names, got {len(classes)}")
