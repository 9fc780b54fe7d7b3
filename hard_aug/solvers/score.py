"""Score: what a solver ascends, an objective of teacher and student on images, per image.

Where an image begins with a real one, the teacher's answer to that is the reference; else the label stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug.checks import (
    check_images,
    check_kinds,
    check_labels,
    check_same_classes,
)
from hard_aug.models.guard import evaluation_mode
from hard_aug.objectives import ConfidenceGap, Disagreement, Invariance, Reference, teacher_change
from hard_aug.players import Players
from hard_aug.solvers.counts import Evaluations

#: Logit of the class that a label stands for, where there is no answer of the teacher.
CERTAIN = 20.0
#: Random views of images `(B, C, H, W)`, one generator for each image.
Views = Callable[[Tensor, Sequence[torch.Generator]], Tensor]


def check_finite(images: Tensor) -> None:
    """Raise `FloatingPointError` for images that are not. Reads them."""
    if not bool(images.isfinite().all()):
        raise FloatingPointError(
            "the images are not finite; the denoiser or the autoencoder overflows in its precision: use .float() or "
            ".bfloat16() for both"
        )


def check_scores(scores: Tensor) -> None:
    """Raise `FloatingPointError` for scores that are NaN. Reads them."""
    if bool(scores.isnan().any()):
        raise FloatingPointError(
            f"{int(scores.isnan().sum())} of {len(scores)} scores are NaN; a network or the autoencoder that searches "
            "decode with (preview) overflows in its precision: use .float() or .bfloat16()"
        )


class Score:
    """`D - cost(I)` of images, higher is harder; with a graph to them. Counts in `evaluations`.

    Args:
        teacher, student: networks from images in [0, 1] to logits `(B, K)`.
        objective: None: `ConfidenceGap(2.0, start=1.0)`, ConfiG-style (arXiv:2506.02294), which wants labels.
        invariance: what a change of the teacher's answer costs; None: nothing, as for objectives that name the label.
        views: what searches show the networks in place of the images, such as `Cutouts`; final scores are of the
            images themselves.

    Raises:
        TypeError: parts that are none.
    """

    def __init__(
        self,
        *,
        teacher: nn.Module,
        student: nn.Module,
        objective: Disagreement | None = None,
        invariance: Invariance | None = None,
        views: Views | None = None,
    ) -> None:
        objective = ConfidenceGap(2.0, start=1.0) if objective is None else objective
        check_kinds(teacher=(teacher, nn.Module), student=(student, nn.Module), objective=(objective, Disagreement))
        if invariance is not None:
            check_kinds(invariance=(invariance, Invariance))
        self.players = Players(teacher=teacher, student=student)
        self.objective, self.invariance, self.views = objective, invariance, views
        self.evaluations = Evaluations()

    @property
    def wants_labels(self) -> bool:
        """Whether the objective names the right class."""
        return self.objective.wants_labels

    @torch.no_grad()
    def answers(self, images: Tensor) -> Tensor:
        """`(B,)`, the teacher's top class on images in [0, 1], for where there are no labels.

        Raises:
            TypeError, ValueError: wrong shapes or values.
        """
        check_images(images)
        if not len(images):  # which not every layer takes
            return torch.zeros(0, dtype=torch.int64, device=self.players.device)
        shown = images.to(self.players.device).float()
        with evaluation_mode(self.players.teacher), torch.autocast(shown.device.type, enabled=False):
            return self.players.teacher_logits(shown).argmax(1)

    @torch.no_grad()
    def reference(self, images: Tensor | None, labels: Tensor | None, *, classes: int | None = None) -> Reference:
        """What the answers to images that began with these are compared with.

        Args:
            images: `(B, C, H, W)` real ones; None: there are none, and the labels stand for the teacher's answer.
            labels: `(B,)`; None: the objective names none.
            classes: K, wanted where there are no images.

        Raises:
            ValueError: labels that are missing, or outside the classes.
        """
        if labels is None and (self.wants_labels or images is None):
            who = type(self.objective).__name__
            raise ValueError(
                f"{who} wants labels here; give labels (B,), or start from images with an objective whose "
                f"target='teacher'"
            )
        student = None
        if images is not None:
            check_labels(labels, batch=len(images))
            with evaluation_mode(self.players.teacher, self.players.student):
                teacher = self.players.teacher_logits(images)
                if self.objective.wants_student_reference:
                    student = self.players.student_logits(images)
            if labels is not None:
                _check_within(labels, teacher.shape[1], "the teacher's classes")
            self.evaluations.classifier_forward += len(images) * (1 if student is None else 2)
        elif labels is not None and classes is not None:
            if self.objective.wants_student_reference:
                raise ValueError(f"{type(self.objective).__name__} compares with the clean image; start from images")
            _check_within(labels, classes, "as classes= or the denoiser says")
            teacher = CERTAIN * F.one_hot(labels.long(), classes).float()
        else:
            raise ValueError("classes: wanted the number of classes where there are no images")
        return Reference(teacher, student, labels)

    def __call__(
        self,
        images: Tensor,
        reference: Reference,
        *,
        progress: float = 1.0,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """`(B,)` float32 of images in [0, 1]. Gradients: images yes.

        Args:
            progress: share of the search that is over, for objectives that change with it (`Disagreement.at`).
            generators: of the views, one for each image; None: the images themselves.

        Raises:
            ValueError: a reference of other classes than the networks'.
            FloatingPointError: images that are not finite. (On a GPU the solver says so at its end.)
        """
        if not images.is_cuda:
            check_finite(images)
        shown = images if self.views is None or generators is None else self.views(images, generators)
        with evaluation_mode(self.players.teacher, self.players.student):
            teacher = self.players.teacher_logits(shown)
            student = self.players.student_logits(shown)
        check_same_classes(teacher_logits=teacher, student_logits=student)
        if reference.teacher_logits.shape[1] != teacher.shape[1]:
            raise ValueError(
                f"labels of {reference.teacher_logits.shape[1]} classes, and the teacher has {teacher.shape[1]}: give "
                "classes=, or tell the diffuser which label is none, condition=ClassLabels(K, none_label=K)"
            )
        self.evaluations.classifier_forward += 2 * len(images)
        if torch.is_grad_enabled() and images.requires_grad:
            self.evaluations.classifier_backward += 2 * len(images)
        score = self.objective.at(progress)(teacher_logits=teacher, student_logits=student, reference=reference)
        if self.invariance is not None:
            change = teacher_change(reference_logits=reference.teacher_logits, hard_logits=teacher)
            score = score - self.invariance.cost(change)
        return score.float()

    @torch.no_grad()
    def final(self, images: Tensor, reference: Reference) -> Tensor:
        """`(B,)` of the images themselves, at the end of the search; without a graph."""
        return self(images, reference)


def _check_within(labels: Tensor, classes: int, whose: str) -> None:
    if len(labels):
        low, high = int(labels.min()), int(labels.max())
        if not 0 <= low <= high < classes:
            raise ValueError(f"labels from {low} to {high}: wanted 0 to {classes - 1}, {whose}")


class Cutouts:
    """Random crops and noise: what is left of a score in them is not one pattern of pixels (after DiG-IN).

    Args:
        smallest: side of the smallest crop, as a share of the image's, in (0, 1]; sides are uniform from there to 1.
        noise: standard deviation of normal noise, at least 0.

    Raises:
        ValueError: names the setting.
    """

    def __init__(self, *, smallest: float = 0.75, noise: float = 0.005) -> None:
        if not 0 < smallest <= 1:
            raise ValueError(f"smallest={smallest}: wanted a share of the side in (0, 1]")
        if not 0 <= noise < 1:
            raise ValueError(f"noise={noise}: wanted a standard deviation in [0, 1)")
        self.smallest, self.noise = smallest, noise

    def __call__(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        drawn = torch.stack([torch.rand(3, generator=g) for g in generators]).to(images)
        side = self.smallest + (1 - self.smallest) * drawn[:, 0]
        theta = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
        theta[:, 0, 0], theta[:, 1, 1] = side, side
        theta[:, :, 2] = (1 - side[:, None]) * (2 * drawn[:, 1:] - 1)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        crops = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        noise = torch.stack([torch.randn(images.shape[1:], generator=g) for g in generators]).to(images)
        return crops + self.noise * noise
