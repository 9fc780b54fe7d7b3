"""Score: the objective that a search maximises, per image, from the logits of teacher and student.

If an image starts from a real one, the reference is the teacher's prediction for that; otherwise the label replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug.generative.nfe import NFE
from hard_aug.inner_loop.networks import Networks
from hard_aug.inner_loop.scoring import score_images
from hard_aug.objectives import ConfidenceGap, Disagreement, Invariance, Reference
from hard_aug.utils.checks import (
    check_images,
    check_kinds,
    check_labels,
)
from hard_aug.utils.settings_repr import SettingsRepr

#: Logit of the label's class where there is no prediction of the teacher.
CERTAIN = 20.0
#: Random augmentation of images `(B, C, H, W)`, with one generator for each image.
Augment = Callable[[Tensor, Sequence[torch.Generator]], Tensor]


def check_finite(images: Tensor) -> None:
    """Raise `FloatingPointError` if images are not finite; reads their values."""
    if not bool(images.isfinite().all()):
        raise FloatingPointError(
            "the images are not finite; the denoiser or the autoencoder overflows in its precision: use .float() or "
            ".bfloat16() for both"
        )


def check_scores(scores: Tensor) -> None:
    """Raise `FloatingPointError` if scores are NaN; reads their values."""
    if bool(scores.isnan().any()):
        raise FloatingPointError(
            f"{int(scores.isnan().sum())} of {len(scores)} scores are NaN; a network or the preview autoencoder "
            "overflows in its precision: use .float() or .bfloat16()"
        )


class Score(SettingsRepr):
    """`D - cost(I)` of images, the higher the harder, differentiable in the images.

    Args:
        teacher: network from images in [0, 1] to logits `(B, K)`.
        student: likewise.
        objective: the disagreement `D`; None: `ConfidenceGap(2.0, start=1.0)`, ConfiG-style (arXiv:2506.02294), which
            requires labels.
        invariance: cost of the teacher's divergence `I` from the reference; None: no cost, as for objectives that use
            the label.
        augment: random augmentation of the images during the search, such as `RandomCrops`; final scores are those of
            the images themselves.

    Attributes:
        nfe: number of function evaluations so far.

    Raises:
        TypeError: a part has the wrong type.

    Example:
        >>> teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2))
        >>> score = Score(teacher=teacher, student=student)
        >>> images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 2])
        >>> score.evaluate(images, score.reference(images, labels)).shape
        torch.Size([2])
        >>> score.nfe.classifier_forward
        6
    """

    def __init__(
        self,
        *,
        teacher: nn.Module,
        student: nn.Module,
        objective: Disagreement | None = None,
        invariance: Invariance | None = None,
        augment: Augment | None = None,
    ) -> None:
        objective = ConfidenceGap(2.0, start=1.0) if objective is None else objective
        check_kinds(teacher=(teacher, nn.Module), student=(student, nn.Module), objective=(objective, Disagreement))
        if invariance is not None:
            check_kinds(invariance=(invariance, Invariance))
        self.teacher, self.student = teacher, student
        self.networks = Networks(teacher=teacher, student=student)
        self.objective, self.invariance, self.augment = objective, invariance, augment
        self.nfe = NFE()

    @property
    def requires_labels(self) -> bool:
        """Whether the objective uses the true class."""
        return self.objective.requires_labels

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return the teacher's top class `(B,)`, to be used where there are no labels.

        Args:
            images: `(B, C, H, W)` in [0, 1].

        Raises:
            TypeError: the images are not floating point.
            ValueError: shape or values are wrong.
        """
        check_images(images)
        if not len(images):  # not every layer accepts empty batches
            return torch.zeros(0, dtype=torch.int64, device=self.networks.device)
        shown = images.to(self.networks.device).float()
        with self.networks.eval_mode(student=False), torch.autocast(shown.device.type, enabled=False):
            return self.networks.teacher(shown).argmax(1)

    @torch.no_grad()
    def reference(self, images: Tensor | None, labels: Tensor | None, *, classes: int | None = None) -> Reference:
        """Compute the predictions that those for the hard images are compared with.

        Args:
            images: `(B, C, H, W)`, real images that the search starts from; None: the labels replace the teacher's
                predictions.
            labels: `(B,)` integers; None: the objective uses none.
            classes: number of classes K, required if there are no images.

        Raises:
            ValueError: labels are missing or out of range, or `classes` is missing.
        """
        if labels is None and (self.requires_labels or images is None):
            name = type(self.objective).__name__
            raise ValueError(
                f"{name} requires labels here; give labels (B,), or start from images with an objective whose "
                f"target='teacher'"
            )
        student = None
        if images is not None:
            check_labels(labels, batch=len(images))
            with self.networks.eval_mode():
                teacher = self.networks.teacher(images)
                if self.objective.requires_student_reference:
                    student = self.networks.student(images)
            if labels is not None:
                _check_label_range(labels, teacher.shape[1], "the teacher's classes")
            self.nfe.classifier_forward += len(images) * (1 if student is None else 2)
        elif labels is not None and classes is not None:
            if self.objective.requires_student_reference:
                raise ValueError(f"{type(self.objective).__name__} compares with the clean image; start from images")
            _check_label_range(labels, classes, "according to classes= or the denoiser")
            teacher = CERTAIN * F.one_hot(labels.long(), classes).float()
        else:
            raise ValueError("classes: expected the number of classes where there are no images")
        return Reference(teacher, student, labels)

    def __call__(
        self,
        images: Tensor,
        reference: Reference,
        *,
        progress: float = 1.0,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Compute the scores `(B,)` float32. Gradients: images yes.

        Args:
            images: `(B, C, H, W)` in [0, 1].
            reference: predictions to compare with, see `reference()`.
            progress: fraction of the search that is done, for objectives that change with it (`Disagreement.at`).
            generators: generators of the random augmentation, one for each image; None: no augmentation.

        Raises:
            ValueError: the reference has another number of classes than the networks, or the images require a gradient
                and none passes through a network.
            FloatingPointError: the images are not finite. (On a GPU the search checks them at its end.)
        """
        if not images.is_cuda:
            check_finite(images)
        if torch.is_grad_enabled() and images.requires_grad:
            for network in (self.networks.teacher, self.networks.student):
                network.check_gradient(images, instead="BestOfN(sampler)")
        shown = images if self.augment is None or generators is None else self.augment(images, generators)
        with self.networks.eval_mode():
            scores = score_images(
                shown,
                networks=self.networks,
                reference=reference,
                objective=self.objective.at(progress),
                invariance=self.invariance,
            )
        self.nfe.classifier_forward += 2 * len(images)
        if torch.is_grad_enabled() and images.requires_grad:
            self.nfe.classifier_backward += 2 * len(images)
        return scores.total.float()

    @torch.no_grad()
    def evaluate(self, images: Tensor, reference: Reference) -> Tensor:
        """Compute the final scores `(B,)`: of the images without augmentation, without a graph.

        Args:
            images: `(B, C, H, W)` in [0, 1].
            reference: predictions to compare with, see `reference()`.
        """
        return self(images, reference)


def _check_label_range(labels: Tensor, classes: int, source: str) -> None:
    if len(labels):
        low, high = int(labels.min()), int(labels.max())
        if not 0 <= low <= high < classes:
            raise ValueError(f"labels from {low} to {high}: expected 0 to {classes - 1}, {source}")
