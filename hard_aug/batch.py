"""HardBatch: what a call of the augmenter gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hard_aug.checks import check_logits, check_same_classes
from hard_aug.distillation import distillation_loss
from hard_aug.models.batch_norm import ViewStatistics
from hard_aug.models.guard import evaluation_mode, unwrapped
from hard_aug.objectives import Disagreement, Reference
from hard_aug.ops.backend import Backend, use_backend
from hard_aug.ops.divergence import check_temperature
from hard_aug.transforms import Context

#: Called by `HardBatch.loss` with the loss, the leaf that was its hard view, the student's detached logits on it, and
#: its weight.
LossObserver = Callable[[Tensor, Tensor, Tensor, float], None]


class LossAndLogits(NamedTuple):
    """What `HardBatch.loss_and_logits` gives back.

    Attributes:
        loss: a scalar.
        clean_logits: `(B, K)`, the student's on the clean images, with a graph.
        hard_logits: `(augmented, K)`, on the hard ones, with a graph.
    """

    loss: Tensor
    clean_logits: Tensor
    hard_logits: Tensor


class HardBatch:
    """Hard images with all that is known of them.

    Attributes:
        images: `(B, C, H, W)` in [0, 1], device, dtype and memory format of the input.
        clean_images: the input, detached, in [0, 1].
        augmented: how many images, the first ones, are hard; the others are the clean ones. B, unless the augmenter has
            a `share`, or is still in its `warm_up`.
        u: `(B, P)` float32, the transform's parameters; 0, the identity, for the others.
        context: the partners of a mix and the noise, for the `augmented` images: with these,
            `transform(clean_images[:augmented], u[:augmented], context)` replays them, before the clamp.
        teacher_logits: `(B, K)` on the hard images, detached.
        clean_teacher_logits: `(B, K)` on the clean ones, detached.
        reference_logits: `(B, K)`, what the teacher's answer is compared with: that to the clean image, or for a mix
            the mean of both answers by area.
    """

    def __init__(
        self,
        *,
        images: Tensor,
        clean_images: Tensor,
        augmented: int,
        u: Tensor,
        context: Context,
        decode: Callable[[Tensor], dict[str, Tensor]],
        teacher_logits: Tensor,
        clean_teacher_logits: Tensor,
        reference: Reference,
        student: nn.Module,
        statistics: ViewStatistics,
        objective: Disagreement,
        default_temperature: float,
        observer: LossObserver | None = None,
        backend: Backend | None = None,
    ) -> None:
        self.images = images
        self.clean_images = clean_images
        self.augmented = augmented
        self.u = u
        self.context = context
        self.teacher_logits = teacher_logits
        self.clean_teacher_logits = clean_teacher_logits
        self.reference_logits = reference.teacher_logits
        self._reference = reference
        self._statistics = statistics
        self._decode = decode
        self._student = student
        self._objective = objective
        self._default_temperature = default_temperature
        self._observer = observer
        self._backend = backend
        self._student_logits: Tensor | None = None
        self._clean_student_logits: Tensor | None = reference.student_logits

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def params(self) -> dict[str, Tensor]:
        """Physical values by name, `(B,)` each."""
        return self._decode(self.u)

    @cached_property
    def unchanged(self) -> Tensor:
        """`(B,)` bool: the teacher's top class is that of the reference, the clean image's."""
        return self.teacher_logits.argmax(1) == self.reference_logits.argmax(1)

    @property
    def disagreement(self) -> Tensor:
        """`(B,)`, the objective on the hard images, detached.

        After `loss()` it is that of the very forward of the loss; before, the student is run once, in evaluation mode.
        """
        if self._student_logits is None:
            self._student_logits = self._answer(self.images)
        if self._clean_student_logits is None and self._objective.wants_student_reference:
            self._clean_student_logits = self._answer(self.clean_images)
        with use_backend(self._backend):
            return self._objective(
                teacher_logits=self.teacher_logits,
                student_logits=self._student_logits,
                reference=replace(self._reference, student_logits=self._clean_student_logits),
            )

    def _answer(self, images: Tensor) -> Tensor:
        student = unwrapped(self._student)  # a wrapper's forward may wait for other processes
        with torch.no_grad(), evaluation_mode(student):
            return check_logits(student(images.detach()), batch=len(self), player="student")

    def loss(self, *, temperature: float | None = None, clean_weight: float = 0.5) -> Tensor:
        """Distil on both views: `clean_weight KD(clean) + (1 - clean_weight) KD(hard)`, means over each, a scalar.

        Does one forward of the student, on the concatenation of both views, in the mode that the student is in. The
        hard view is that of the `augmented` images; without any, as in a warm-up, the loss is KD(clean).

        Args:
            temperature: of the distillation loss; None: the objective's.
            clean_weight: in [0, 1].

        Raises:
            ValueError: a weight outside [0, 1], a temperature that is not positive, other class counts, or (under
                `Joint`) a temperature that is not the objective's.
        """
        return self.loss_and_logits(temperature=temperature, clean_weight=clean_weight).loss

    def loss_and_logits(self, *, temperature: float | None = None, clean_weight: float = 0.5) -> LossAndLogits:
        """`loss`, and the student's logits that it is made of, for another term on the clean ones beside it.

        ```python
        loss, clean_logits, _ = hard.loss_and_logits()
        total = 0.7 * loss + 0.3 * F.cross_entropy(clean_logits, labels)
        ```

        Under `Joint` a term on the hard logits would be ascended too, as if it were a part of the loss.
        """
        if not 0 <= clean_weight <= 1:
            raise ValueError(f"clean_weight={clean_weight}: wanted a number in [0, 1]")
        temperature = self._default_temperature if temperature is None else temperature
        check_temperature(temperature)
        if self._observer is not None and temperature != self._default_temperature:
            raise ValueError(
                f"temperature={temperature}, but Joint takes the student's part of the objective from this loss, at "
                f"{self._default_temperature}; give the objective that temperature, KL(temperature={temperature})"
            )
        rows = self.augmented
        watched = self._observer is not None and torch.is_grad_enabled()
        hard_view = self.images[:rows].detach().requires_grad_(watched)  # a leaf of its own tells this loss from others
        views = torch.cat((self.clean_images, hard_view)) if rows else self.clean_images
        with self._statistics.of(clean=len(self), hard=rows):
            logits = check_logits(self._student(views), batch=len(views), player="student")
        check_same_classes(teacher_logits=self.teacher_logits, student_logits=logits)
        clean, hard = logits[: len(self)], logits[len(self) :]
        self._student_logits = torch.cat((hard, clean[rows:])).detach()
        self._clean_student_logits = clean.detach()
        with use_backend(self._backend):
            loss = distillation_loss(
                student_logits=clean, teacher_logits=self.clean_teacher_logits, temperature=temperature
            )
            if rows or not len(self):
                loss = clean_weight * loss + (1 - clean_weight) * distillation_loss(
                    student_logits=hard, teacher_logits=self.teacher_logits[:rows], temperature=temperature
                )
        if watched and self._observer is not None:
            self._observer(loss, hard_view, hard.detach(), 1 - clean_weight)
        return LossAndLogits(loss, clean, hard)
