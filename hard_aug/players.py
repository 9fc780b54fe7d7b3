"""The two players, teacher and student, as the inner loop sees them: checked logits in evaluation mode."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hard_aug.checks import check_logits, check_same_classes
from hard_aug.models.guard import unwrapped
from hard_aug.objectives import Disagreement, teacher_change

#: A power of two, so that it changes nothing in float32. Larger ones overflow in float16 where players disagree.
INNER_SCALE = 2.0**10


class Players:
    """Holds both networks without registering them anywhere, unwrapped from DDP and `torch.compile`."""

    def __init__(self, *, teacher: nn.Module, student: nn.Module) -> None:
        self.teacher = unwrapped(teacher)
        self.student = unwrapped(student)

    @property
    def device(self) -> torch.device:
        """Where the networks are; the CPU if they hold nothing."""
        for model in (self.student, self.teacher):
            for tensor in (*model.parameters(), *model.buffers()):
                return tensor.device
        return torch.device("cpu")

    def running(self, *, student: bool) -> tuple[nn.Module, ...]:
        """The networks that a call runs: the teacher, and perhaps the student."""
        return (self.teacher, self.student) if student else (self.teacher,)

    def teacher_logits(self, images: Tensor) -> Tensor:
        """`(B, K)`; with a graph to `images` if they have one."""
        return self._logits(self.teacher, images, "teacher")

    def student_logits(self, images: Tensor) -> Tensor:
        """`(B, K)`; with a graph to `images` if they have one."""
        return self._logits(self.student, images, "student")

    @staticmethod
    def _logits(model: nn.Module, images: Tensor, player: str) -> Tensor:
        logits = check_logits(model(images), batch=len(images), player=player)
        if not logits.is_cuda and not math.isfinite(float(logits.detach().sum(dtype=torch.float64))):
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


def sum_gradients(scores: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of the sum of `scores`, `(B,)`, float32 or wider.

    Taken of `INNER_SCALE` times the sum: where a network computes in float16, the gradients of players that nearly
    agree would be zero.
    """
    found = gradients_of(scores.sum() * INNER_SCALE, inputs)
    return [gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / INNER_SCALE for gradient in found]


def gradients_of(
    outputs: Tensor, inputs: list[Tensor], weights: Tensor | None = None, *, retain_graph: bool = False
) -> list[Tensor]:
    """`torch.autograd.grad`, with zeros where an input plays no part."""
    found = torch.autograd.grad(outputs, inputs, grad_outputs=weights, allow_unused=True, retain_graph=retain_graph)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]
