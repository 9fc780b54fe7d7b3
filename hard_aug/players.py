"""The two players, teacher and student, as the inner loop sees them: checked logits in evaluation mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hard_aug.checks import check_logits, check_same_classes
from hard_aug.models.guard import unwrapped
from hard_aug.objectives import Disagreement, teacher_change


class Players:
    """Holds both networks without registering them anywhere, unwrapped from DDP and `torch.compile`."""

    def __init__(self, *, teacher: nn.Module, student: nn.Module) -> None:
        self.teacher = unwrapped(teacher)
        self.student = unwrapped(student)

    def teacher_logits(self, images: Tensor) -> Tensor:
        """`(B, K)`; with a graph to `images` if they have one."""
        return self._logits(self.teacher, images, "teacher")

    def student_logits(self, images: Tensor) -> Tensor:
        """`(B, K)`; with a graph to `images` if they have one."""
        return self._logits(self.student, images, "student")

    @staticmethod
    def _logits(model: nn.Module, images: Tensor, player: str) -> Tensor:
        logits = check_logits(model(images), batch=len(images), player=player)
        if not logits.is_cuda and not bool(logits.detach().isfinite().all()):
            raise ValueError(
                f"the {player} returned NaN or infinite logits; its weights or its own normalisation are off "
                f"(try a lower learning rate, or check {player}(images) on its own)"
            )
        return logits

    def scores(
        self,
        hard_images: Tensor,
        *,
        reference_logits: Tensor,
        student_logits: Tensor | None,
        objective: Disagreement,
        multiplier: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What the augmenter ascends, `D - multiplier I`, and `I` itself, `(B,)` each, with a graph to the images.

        `student_logits=None` runs the student with a graph; given ones are constants.
        """
        teacher_logits = self.teacher_logits(hard_images)
        if hard_images.requires_grad and not teacher_logits.requires_grad:
            raise ValueError(
                "the teacher's logits carry no gradient to the images: its forward detaches them or runs under "
                "torch.no_grad(), so its answer can't be kept; remove that (frozen parameters are fine), or use "
                "schedule=Joint(teacher_gradient=False)"
            )
        if student_logits is None:
            student_logits = self.student_logits(hard_images)
        check_same_classes(teacher_logits=teacher_logits, student_logits=student_logits)
        disagreement = objective(teacher_logits=teacher_logits, student_logits=student_logits)
        change = teacher_change(reference_logits=reference_logits, hard_logits=teacher_logits)
        return disagreement - multiplier * change, change


def clamp_with_gradient(images: Tensor) -> Tensor:
    """Clamp to [0, 1]; the gradient passes as if nothing had been clamped, so saturated pixels still learn."""
    return images + (images.clamp(0, 1) - images).detach() if images.requires_grad else images.clamp(0, 1)


def gradients_of(
    outputs: Tensor, inputs: list[Tensor], weights: Tensor | None = None, *, retain_graph: bool = False
) -> list[Tensor]:
    """`torch.autograd.grad`, with zeros where an input plays no part."""
    found = torch.autograd.grad(outputs, inputs, grad_outputs=weights, allow_unused=True, retain_graph=retain_graph)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]
