"""TwoViewLoss: distillation on the clean and the hard view, with one forward of the student on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hard_aug.losses.kd import distillation_loss
from hard_aug.models.batch_norm import BatchNormMode, ViewStatistics
from hard_aug.models.eval_mode import eval_mode, unwrap_model
from hard_aug.ops.backend import Backend, use_backend
from hard_aug.utils.checks import check_logits, check_positive_number, check_same_classes, check_unit_interval
from hard_aug.utils.settings_repr import SettingsRepr

#: Called with the loss, the leaf that was its hard view, the student's detached logits on it, and its weight.
LossObserver = Callable[[Tensor, Tensor, Tensor, float], None]


class LossAndLogits(NamedTuple):
    """Result of `TwoViewLoss` and `HardBatch.loss_and_logits`.

    Attributes:
        loss: a scalar.
        clean_logits: `(B, K)`, the student's on the clean images, with a graph.
        hard_logits: `(n, K)`, the student's on the hard images, with a graph.

    Example:
        >>> from torch.nn.functional import cross_entropy
        >>> logits, labels = torch.zeros(4, 3), torch.tensor([0, 2, 1, 0])
        >>> loss, clean_logits, _ = LossAndLogits(torch.tensor(0.5), clean_logits=logits, hard_logits=logits[:2])
        >>> round(float(0.7 * loss + 0.3 * cross_entropy(clean_logits, labels)), 4)
        0.6796
    """

    loss: Tensor
    clean_logits: Tensor
    hard_logits: Tensor


class TwoViewLoss(SettingsRepr):
    """`w KD(clean) + (1 - w) KD(hard)`, the mean over each view, from one forward on their concatenation.

    Args:
        student: network from images in [0, 1] to logits `(B, K)`, perhaps wrapped by DDP or `torch.compile`. It is run
            in the mode that it is in.
        temperature: default `T` of the distillation loss, above 0.
        batch_norm: how the student's BatchNorm sees the views, "shared", "frozen" or "split"; see
            `hard_aug.models.batch_norm`.
        backend: of the operations; None: see `hard_aug.ops.backend`.

    Raises:
        ValueError: an unknown mode of BatchNorm.

    Example:
        >>> student = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        >>> loss = TwoViewLoss(student, temperature=2.0)
        >>> images, logits = torch.rand(4, 1, 4, 4), torch.randn(4, 3)
        >>> loss(images, images[:2], clean_teacher_logits=logits, hard_teacher_logits=logits[:2]).hard_logits.shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        temperature: float = 2.0,
        batch_norm: BatchNormMode = "shared",
        backend: Backend | None = None,
    ) -> None:
        self.student = student
        self.temperature, self.backend = temperature, backend
        self.batch_norm = batch_norm
        self._statistics = ViewStatistics(student, batch_norm)

    def __call__(
        self,
        clean_images: Tensor,
        hard_images: Tensor,
        *,
        clean_teacher_logits: Tensor,
        hard_teacher_logits: Tensor,
        temperature: float | None = None,
        clean_weight: float = 0.5,
        observer: LossObserver | None = None,
    ) -> LossAndLogits:
        """Compute the loss.

        Args:
            clean_images: `(B, C, H, W)`.
            hard_images: `(n, C, H, W)`; without any the loss is KD(clean).
            clean_teacher_logits: `(B, K)`.
            hard_teacher_logits: `(n, K)`.
            temperature: None: the default.
            clean_weight: w, in [0, 1].
            observer: called with the loss; it requires the default temperature.

        Raises:
            ValueError: a weight outside [0, 1], a temperature that is not positive, or that an observer does not allow,
                or other numbers of classes.
        """
        check_unit_interval(clean_weight=clean_weight)
        temperature = self.temperature if temperature is None else temperature
        check_positive_number(temperature=temperature)
        if observer is not None and temperature != self.temperature:
            raise ValueError(
                f"temperature={temperature}: Joint takes the student's part of the objective from this loss, at "
                f"{self.temperature}; use objective=KL(temperature={temperature})"
            )
        if observer is not None and torch.is_grad_enabled():
            hard_images = hard_images.detach().requires_grad_()  # a leaf of its own, whose gradient is this loss's
        count, rows = len(clean_images), len(hard_images)
        views = torch.cat((clean_images, hard_images)) if rows else clean_images
        with self._statistics.of(clean=count, hard=rows):
            logits = check_logits(self.student(views), batch=len(views), network="student")
        check_same_classes(teacher_logits=clean_teacher_logits, student_logits=logits)
        clean, hard = logits[:count], logits[count:]
        with use_backend(self.backend):
            loss = distillation_loss(student_logits=clean, teacher_logits=clean_teacher_logits, temperature=temperature)
            if rows or not count:
                hard_loss = distillation_loss(
                    student_logits=hard, teacher_logits=hard_teacher_logits, temperature=temperature
                )
                loss = clean_weight * loss + (1 - clean_weight) * hard_loss
        if observer is not None and rows:
            observer(loss, hard_images, hard.detach(), 1 - clean_weight)
        return LossAndLogits(loss, clean, hard)

    def evaluate_student(self, images: Tensor) -> Tensor:
        """Return the student's logits `(B, K)` in evaluation mode, detached."""
        student = unwrap_model(self.student)  # the forward of a wrapper may wait for other processes
        with torch.no_grad(), eval_mode(student):
            return check_logits(student(images.detach()), batch=len(images), network="student")
