"""How the views of a run fail, if they do: see `hard_aug.solvers.detectors`. Asked for by `detectors.*`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hydra.utils import instantiate
from torch import Tensor

from experiments.evaluation import finite
from experiments.jobs import Job, settled
from experiments.views import random_views
from hard_aug.solvers import detect

if TYPE_CHECKING:
    from experiments.experiment import Experiment

#: Test images whose views are looked at.
DETECTED = 500


def detected(experiment: Experiment) -> dict[str, dict[str, float]]:
    """The numbers of the rows `hard` and `random`, by row; empty if none are asked for.

    With `detectors.judge` they say whether a second teacher keeps the label, with `detectors.other_student` whether a
    second student, taught in the same way from another start, is as wrong on the views. Each is trained for that.
    """
    wanted = experiment.config.get("detectors")
    if not wanted or not (wanted.judge or wanted.other_student):
        return {}
    judge = experiment.other_teacher() if wanted.judge else None
    shown = experiment.splits.test[slice(0, DETECTED)].in_memory()
    found = {}
    for row in ("random", "hard"):
        job = experiment.chosen(row)
        if job is None:
            continue
        other = experiment.other_student(job) if wanted.other_student else None
        student = experiment.student()
        student.load_state_dict(experiment.finished(row)["model"])
        views = _views(experiment, job, shown.images, shown.labels)
        numbers = detect(
            views,
            shown.images,
            shown.labels,
            teacher=experiment.teacher,
            student=student.eval(),
            judge=judge,
            other_student=other,
        )
        found[row] = finite(numbers)
    return found


def _views(experiment: Experiment, job: Job, images: Tensor, labels: Tensor) -> Tensor:
    """What a finished student was shown of these images at the end of its training."""
    if job.method == "random":
        transform = instantiate(settled(experiment.config, job).transform)
        generator = torch.Generator().manual_seed(experiment.config.seed)
        return random_views(transform, images, generator, scale=job.scale)
    student, kept = experiment.student(), experiment.finished(job.row)
    student.load_state_dict(kept["model"])
    augmenter = experiment.augmenter(student, job)
    augmenter.load_state_dict(kept["method"])
    views: Tensor = augmenter(images, labels).images.detach()
    return views
