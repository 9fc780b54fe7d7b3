"""Failure metrics of a student's views, requested by `failure_metrics.*`; `hard_aug.synthesis` defines them."""

from __future__ import annotations

from torch import Tensor, nn

from experiments.methods import Hard, Method, RandomViews
from experiments.training.accuracy import finite_failure_metrics
from hard_aug.data import ImageSet


def views_of(method: Method, images: Tensor, labels: Tensor) -> Tensor | None:
    """Return a method's views of images as in the last step of its training; None if it has none of single images.

    Args:
        method: after its training.
        images: `(B, C, H, W)` in [0, 1].
        labels: `(B,)`.
    """
    if isinstance(method, Hard):
        return method.augmenter.generate(images, labels).images.detach()
    return method.second_view(images, labels) if isinstance(method, RandomViews) else None


def view_failure_metrics(
    method: Method,
    shown: ImageSet,
    *,
    teacher: nn.Module,
    student: nn.Module,
    judge: nn.Module | None,
    other_student: nn.Module | None,
) -> dict[str, float]:
    """Return the metrics of a method's views of clean images; empty if it has no views.

    Args:
        method: after its training.
        shown: clean images with their labels.
        teacher: the teacher.
        student: the trained student.
        judge: a second teacher: does it still predict the label?
        other_student: a second student with another initialisation: is it as wrong?
    """
    views = views_of(method, shown.images, shown.labels)
    if views is None:
        return {}
    networks = {"student": student.eval(), "judge": judge, "other_student": other_student}
    return finite_failure_metrics(views, shown.images, shown.labels, teacher=teacher, **networks)
