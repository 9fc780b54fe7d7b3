"""What the figures share: an image without axes, and a player's answer in words."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from torch import Tensor

#: The teacher is always blue and the student red; what is to be transferred is orange.
TEACHER, STUDENT, HARD, CLEAN = "tab:blue", "tab:red", "tab:orange", "tab:gray"


def show(axis: Axes, image: Tensor) -> None:
    """Draw `image`, `(C, H, W)` in [0, 1]: in colour if it has 3 or 4 channels, else the mean of its channels."""
    pixels = image.detach().float().clamp(0, 1).cpu()
    if pixels.shape[0] in (3, 4):
        axis.imshow(pixels[:3].permute(1, 2, 0).numpy())
    else:
        axis.imshow(pixels.mean(0).numpy(), cmap="gray", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])


def answer(logits: Tensor, classes: Sequence[str] | None) -> tuple[str, int]:
    """The top class with its probability, as text, and its index, of logits `(K,)`."""
    probability, top = logits.float().softmax(0).max(0)
    return f"{class_name(int(top), classes)}, {100 * float(probability):.0f} %", int(top)


def class_name(index: int, classes: Sequence[str] | None) -> str:
    """Its name, or its number where there are none."""
    return str(index) if classes is None else classes[index]


def check_names(classes: Sequence[str] | None, count: int) -> None:
    """Raise `ValueError` if there are fewer names than `count` classes."""
    if classes is not None and len(classes) < count:
        raise ValueError(f"{len(classes)} names for {count} classes")
