"""Failure metrics of a run's augmented images, requested by `failure_metrics.*` of the configuration.

`hard_aug.synthesis.failure_metrics` defines the metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from experiments.configuration.students import StudentSpec, resolve_config
from experiments.tasks.random_views import random_views
from experiments.training.accuracy import keep_finite
from hard_aug import synthesis

if TYPE_CHECKING:
    from experiments.runs.experiment import Experiment

#: Number of test images that are augmented.
IMAGES = 500


def finite_failure_metrics(
    images: Tensor, unguided: Tensor, labels: Tensor, *, teacher: nn.Module, **others: Any
) -> dict[str, float]:
    """Return the metrics that are finite, rounded for JSON.

    Args:
        images: `(B, C, H, W)`, uint8 or float in [0, 1], on any device.
        unguided: the images to compare with, likewise.
        labels: `(B,)`.
        teacher: teacher of the search, on the device that is used.
        **others: further arguments of `hard_aug.synthesis.failure_metrics`.
    """
    device = next(teacher.parameters()).device
    shown, plain = (
        (each.float() / 255 if each.dtype == torch.uint8 else each).to(device) for each in (images, unguided)
    )
    return keep_finite(synthesis.failure_metrics(shown, plain, labels.to(device), teacher=teacher, **others))


def student_failure_metrics(experiment: Experiment) -> dict[str, dict[str, float]]:
    """Return the metrics of the students `hard` and `random`, by name; empty if none are requested.

    With `failure_metrics.judge` they say whether a second teacher still predicts the label, with
    `failure_metrics.other_student` whether a second student, trained with the same settings from another
    initialisation, is as wrong on the augmented images. These networks are trained for that purpose.

    Args:
        experiment: with finished students.
    """
    requested = experiment.config.get("failure_metrics")
    if not requested or not (requested.judge or requested.other_student):
        return {}
    judge = experiment.other_teacher() if requested.judge else None
    clean = experiment.splits.test[slice(0, IMAGES)].materialize()
    found = {}
    for row in ("random", "hard"):
        spec = experiment.best_spec(row)
        if spec is None:
            continue
        student = experiment.student()
        student.load_state_dict(experiment.best_result(row)["model"])
        found[row] = finite_failure_metrics(
            _augmented(experiment, spec, clean.images, clean.labels),
            clean.images,
            clean.labels,
            teacher=experiment.teacher,
            student=student.eval(),
            judge=judge,
            other_student=experiment.other_student(spec) if requested.other_student else None,
        )
    return found


def _augmented(experiment: Experiment, spec: StudentSpec, images: Tensor, labels: Tensor) -> Tensor:
    """Augment images as in the last step of a finished student's training."""
    if spec.method == "random":
        transform = instantiate(resolve_config(experiment.config, spec).transform)
        generator = torch.Generator().manual_seed(experiment.config.seed)
        return random_views(transform, images, generator, scale=spec.scale, labels=labels)
    student, result = experiment.student(), experiment.best_result(spec.row)
    student.load_state_dict(result["model"])
    augmenter = experiment.augmenter(student, spec)
    augmenter.load_state_dict(result["method"])
    return augmenter(images, labels).images.detach()
