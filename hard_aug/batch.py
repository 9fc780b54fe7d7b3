"""HardBatch: what a call of the augmenter gives back."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from hard_aug.checks import check_logits, check_same_classes
from hard_aug.distillation import distillation_loss
from hard_aug.models.guard import evaluation_mode, unwrapped
from hard_aug.objectives import Disagreement

#: Called by `HardBatch.loss` with the loss, the leaf that was its hard view, the student's detached logits on it, and
#: its weight.
LossObserver = Callable[[Tensor, Tensor, Tensor, float], None]


class HardBatch:
    """Hard images with all that is known of them.

    Attributes:
        images: `(B, C, H, W)` in [0, 1], device, dtype and memory format of the input.
        clean_images: the input, detached.
        u: `(B, P)` float32, the transform's parameters; `transform(clean_images, u)` replays the batch.
        teacher_logits: `(B, K)` on the hard images, detached.
        clean_teacher_logits: `(B, K)` on the clean ones, detached.
    """

    def __init__(
        self,
        *,
        images: Tensor,
        clean_images: Tensor,
        u: Tensor,
        decode: Callable[[Tensor], dict[str, Tensor]],
        teacher_logits: Tensor,
        clean_teacher_logits: Tensor,
        student: nn.Module,
        objective: Disagreement,
        default_temperature: float,
        observer: LossObserver | None = None,
    ) -> None:
        self.images = images
        self.clean_images = clean_images
        self.u = u
        self.teacher_logits = teacher_logits
        self.clean_teacher_logits = clean_teacher_logits
        self._decode = decode
        self._student = student
        self._objective = objective
        self._default_temperature = default_temperature
        self._observer = observer
        self._student_logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def params(self) -> dict[str, Tensor]:
        """Physical values by name, `(B,)` each."""
        return self._decode(self.u)

    @cached_property
    def unchanged(self) -> Tensor:
        """`(B,)` bool: the teacher's top class is that of the clean image."""
        return self.teacher_logits.argmax(1) == self.clean_teacher_logits.argmax(1)

    @property
    def disagreement(self) -> Tensor:
        """`(B,)`, the objective on the hard images, detached.

        After `loss()` it is that of the very forward of the loss; before, the student is run once, in evaluation mode.
        """
        if self._student_logits is None:
            student = unwrapped(self._student)  # a wrapper's forward may wait for other processes
            with torch.no_grad(), evaluation_mode(student):
                logits = check_logits(student(self.images.detach()), batch=len(self), player="student")
            self._student_logits = logits
        return self._objective(teacher_logits=self.teacher_logits, student_logits=self._student_logits)

    def loss(self, *, temperature: float | None = None, clean_weight: float = 0.5) -> Tensor:
        """Distil on both views: `clean_weight KD(clean) + (1 - clean_weight) KD(hard)`, batch means, a scalar.

        Does one forward of the student, on the concatenation of both views, in the mode that the student is in.

        Args:
            temperature: of the distillation loss; None: the objective's.
            clean_weight: in [0, 1].

        Raises:
            ValueError: a weight outside [0, 1], a temperature that is not positive, other class counts, or (under
                `Joint`) a temperature that is not the objective's.
        """
        if not 0 <= clean_weight <= 1:
            raise ValueError(f"clean_weight={clean_weight}: wanted a number in [0, 1]")
        temperature = self._default_temperature if temperature is None else temperature
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature={temperature}: wanted a positive number")
        if self._observer is not None and temperature != self._default_temperature:
            raise ValueError(
                f"temperature={temperature}, but Joint takes the student's part of the objective from this loss, at "
                f"{self._default_temperature}; give the objective that temperature, KL(temperature={temperature})"
            )
        watched = self._observer is not None and torch.is_grad_enabled()
        hard_view = self.images.detach().requires_grad_(watched)  # a leaf of its own tells this loss from others
        views = torch.cat((self.clean_images, hard_view))
        logits = check_logits(self._student(views), batch=len(views), player="student")
        check_same_classes(teacher_logits=self.teacher_logits, student_logits=logits)
        clean, hard = logits[: len(self)], logits[len(self) :]
        self._student_logits = hard.detach()
        loss = clean_weight * distillation_loss(
            student_logits=clean, teacher_logits=self.clean_teacher_logits, temperature=temperature
        ) + (1 - clean_weight) * distillation_loss(
            student_logits=hard, teacher_logits=self.teacher_logits, temperature=temperature
        )
        if watched and self._observer is not None:
            self._observer(loss, hard_view, self._student_logits, 1 - clean_weight)
        return loss
