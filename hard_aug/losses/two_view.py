"""TwoViewLoss: distillation on the clean and the hard view, with one forward of the student on both."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hard_aug.losses.kd import distillation_loss
from hard_aug.models.batch_norm import BatchNormMode, ViewStatistics
from hard_aug.models.network import Network
from hard_aug.models.normalized import Normalization
from hard_aug.ops.backend import Backend, use_backend
from hard_aug.utils.checks import check_positive_number, check_same_classes, check_unit_interval
from hard_aug.utils.compilation import outside_graphs
from hard_aug.utils.distributed import warn_unless_averaged
from hard_aug.utils.rows import cat_rows
from hard_aug.utils.settings_repr import SettingsRepr

#: Called with the loss, what was its hard view (it requires grad), the student's detached logits on it, and its weight.
LossObserver = Callable[[Tensor, Tensor, Tensor, float], None]

#: In torch's error of a BatchNorm in training mode.
SINGLE_VALUE = "more than 1 value per channel"


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
            in the mode that it is in; in evaluation mode and without gradients, as a trainer evaluates, without its
            wrappers, so that one process may do it alone.
        temperature: default `T` of the distillation loss, above 0.
        batch_norm: how the student's BatchNorm sees the views, "shared", "frozen" or "split"; see
            `hard_aug.models.batch_norm`.
        backend: of the operations; None: see `hard_aug.ops.backend`.
        normalization: applied to images before the student, unless that does so by itself; None: it takes images in
            [0, 1].

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
        normalization: Normalization | None = None,
    ) -> None:
        self.student = student
        self.temperature, self.backend = temperature, backend
        self.batch_norm, self.normalization = batch_norm, normalization
        self._network = Network(student, name="student", normalization=normalization)
        self._statistics = ViewStatistics(student, batch_norm)
        self._looks_for_wrapper = True

    @property
    def evaluates(self) -> bool:
        """Whether the student is in evaluation mode and gradients are off, as where a trainer evaluates.

        A student counts as in training if any of its layers is, or has no flag `training` (as frozen TorchScript).
        """
        if torch.is_grad_enabled():
            return False
        student = self._network.inner
        layers = (module for module in student.modules() if next(module.children(), None) is None)
        return not (getattr(student, "training", True) and any(getattr(one, "training", True) for one in layers))

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
            hard_images = outside_graphs(_watched, hard_images)
        count, rows = len(clean_images), len(hard_images)
        views = cat_rows(clean_images, hard_images)
        if self.evaluates:
            logits = self._network.evaluate(views, check_finite=False)
        else:
            logits = self._training_logits(views, clean=count, hard=rows)
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
            outside_graphs(observer, loss, hard_images, hard.detach(), 1 - clean_weight)
        return LossAndLogits(loss, clean, hard)

    def evaluate_student(self, images: Tensor) -> Tensor:
        """Return the student's logits `(B, K)` for `images` in [0, 1], in evaluation mode, detached."""
        return self._network.evaluate(images.detach())

    def _training_logits(self, views: Tensor, *, clean: int, hard: int) -> Tensor:
        averaged: AbstractContextManager[None] = nullcontext()
        if self._looks_for_wrapper and torch.is_grad_enabled():
            averaged, self._looks_for_wrapper = warn_unless_averaged(self.student), False
        try:
            with self._statistics.of(clean=clean, hard=hard), averaged:
                return self._network.training_logits(views)
        except ValueError as error:
            if SINGLE_VALUE not in str(error):
                raise
            fix = "use drop_last=True in the loader, or larger batches"
            if self.batch_norm != "shared" and clean + hard > 1:
                fix += ", or batch_norm='shared'" + (", or a larger hard_fraction" if hard == 1 < clean else "")
            raise ValueError(
                f"batch_norm={self.batch_norm!r} with {clean} clean and {hard} hard images: the student's BatchNorm "
                f"has no statistics of a single one; {fix}"
            ) from error


def _watched(images: Tensor) -> Tensor:
    """Return the same images, requiring grad."""
    anchor = torch.zeros((), dtype=torch.float32, device=images.device, requires_grad=True)
    return _Watched.apply(images, anchor)  # type: ignore[no-any-return]


class _Watched(torch.autograd.Function):
    """Identity for images that require no gradient, whose result does: its hooks see the gradient.

    Unlike a leaf it is not kept by the graph: a loss that is kept keeps no images.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, anchor: Tensor) -> Tensor:
        return images.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None
