"""Detectors: how a search for hard images fails, as numbers for a log.

| number | failure that it shows |
|---|---|
| `judge_keeps` | label drift: the share that a judge outside the score still gives the label |
| `teacher_keeps` | the same by the teacher (high beside a low judge: the teacher was fooled) |
| `saturated` | off the manifold: the share of values that are 0 or 1, less that of the images compared with |
| `diversity` | collapse: the mean distance of two images of one class, over that of the images compared with |
| `moved` | nothing happened: root mean square distance to the unguided image of the same seed |
| `transfer` | adversarial noise: the other student's loss of confidence in the label, over the student's own |
| `still` | a vanished drive: the share of images whose score rose by less than a thousandth |
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hard_aug.models.guard import evaluation_mode


@torch.no_grad()
def keeps(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images whose top class is the label."""
    with evaluation_mode(model):
        return float((model(images).argmax(1) == labels).float().mean())


def saturated(images: Tensor) -> float:
    """The share of values that are within half a step of eight bits of 0 or 1."""
    edge = 0.5 / 255
    return float(((images <= edge) | (images >= 1 - edge)).float().mean())


def diversity(images: Tensor, labels: Tensor) -> float:
    """The mean over classes of the root mean square distance of two images of a class; NaN without two of one.

    From variances: the mean squared distance of two different images is twice the unbiased variance.
    """
    spreads = [
        float((2 * images[labels == label].var(dim=0).mean()).sqrt())
        for label in set(labels.tolist())
        if int((labels == label).sum()) > 1
    ]
    return sum(spreads) / len(spreads) if spreads else float("nan")


@torch.no_grad()
def transfer(images: Tensor, unguided: Tensor, labels: Tensor, *, student: nn.Module, other: nn.Module) -> float:
    """How much of what a search takes from the student's confidence it takes from another student's, of other seed.

    1: as much; 0: nothing, the images are noise that fits one network. NaN where the student lost nothing.
    """

    def lost(model: nn.Module) -> float:
        with evaluation_mode(model):
            kept = [model(shown).float().softmax(1).gather(1, labels[:, None]).mean() for shown in (unguided, images)]
        return float(kept[0] - kept[1])

    own = lost(student)
    return lost(other) / own if own > 1e-6 else float("nan")


def detect(
    images: Tensor,
    unguided: Tensor,
    labels: Tensor,
    *,
    teacher: nn.Module,
    student: nn.Module,
    judge: nn.Module | None = None,
    other_student: nn.Module | None = None,
    scores_before: Tensor | None = None,
    scores_after: Tensor | None = None,
) -> dict[str, float]:
    """The numbers of the module's head, those whose network is given.

    Args:
        images, unguided: `(B, C, H, W)` in [0, 1], found with and without a search from the same seeds.
        labels: `(B,)`.
        teacher, student: of the score.
        judge: a classifier outside it.
        other_student: of the student's recipe and another seed.
        scores_before, scores_after: `(B,)`.

    Raises:
        ValueError: no images, or unequal shapes.
    """
    if len(images) == 0 or images.shape != unguided.shape:
        raise ValueError(f"images {tuple(images.shape)} and unguided {tuple(unguided.shape)}: wanted equal, not empty")
    found = {
        "teacher_keeps": keeps(teacher, images, labels),
        "saturated": saturated(images) - saturated(unguided),
        "diversity": _ratio(diversity(images, labels), diversity(unguided, labels)),
        "moved": float((images - unguided).square().mean().sqrt()),
    }
    if judge is not None:
        found["judge_keeps"] = keeps(judge, images, labels)
    if other_student is not None:
        found["transfer"] = transfer(images, unguided, labels, student=student, other=other_student)
    if scores_before is not None and scores_after is not None:
        rise = scores_after - scores_before
        found["still"] = float((rise[~rise.isnan()] < 1e-3).float().mean())
    return found


def _ratio(value: float, other: float) -> float:
    return value / other if other else float("nan")
