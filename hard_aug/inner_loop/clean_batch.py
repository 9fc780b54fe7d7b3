"""CleanBatch: what a policy update and the rendering of hard images start from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hard_aug.objectives import Reference
from hard_aug.transforms import Context


@dataclass(frozen=True, slots=True)
class CleanBatch:
    """Clean images with the predictions on them.

    Attributes:
        images: `(B, C, H, W)` in [0, 1].
        reference: the teacher's logits on them, `(B, K)`, and what else the objective compares with.
        context: noise, partners and labels for the transform.
    """

    images: Tensor
    reference: Reference
    context: Context

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int) -> CleanBatch:
        """Slice to the first `count` images; returns `self` if that is the whole batch.

        Transforms with a cache recognise the clean images by their tensor, so it must not be a new one needlessly.
        """
        if count == len(self):
            return self
        return CleanBatch(self.images[:count], self.reference.first(count), self.context.first(count))

    def tensors(self) -> list[Tensor | None]:
        """All tensors in a fixed order, as a CUDA graph takes them."""
        reference, context = self.reference, self.context
        return [
            self.images,
            reference.teacher_logits,
            reference.student_logits,
            reference.labels,
            context.labels,
            context.partner_images,
            context.partner_logits,
            context.noise,
        ]

    @classmethod
    def from_tensors(cls, tensors: list[Tensor | None]) -> CleanBatch:
        """Build the batch from the list that `tensors()` returns.

        Raises:
            ValueError: the images or the teacher's logits are missing.
        """
        images, teacher_logits, *others = tensors
        if images is None or teacher_logits is None:
            raise ValueError("expected images and the teacher's logits on them, got None")
        return cls(images, Reference(teacher_logits, *others[:2]), Context(*others[2:]))
