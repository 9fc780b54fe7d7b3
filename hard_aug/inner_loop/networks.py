"""Networks: teacher and student as the inner loop runs them, in evaluation mode and with checked logits."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from hard_aug.models.eval_mode import eval_mode, unwrap_model
from hard_aug.utils.checks import check_logits


class Networks:
    """Teacher and student without their DDP and `torch.compile` wrappers; neither is registered anywhere.

    Args:
        teacher: network from images in [0, 1] to logits `(B, K)`.
        student: likewise.
    """

    def __init__(self, *, teacher: nn.Module, student: nn.Module) -> None:
        self.teacher = unwrap_model(teacher)
        self.student = unwrap_model(student)

    @property
    def device(self) -> torch.device:
        """Device of the networks' tensors; the CPU if they have none."""
        for model in (self.student, self.teacher):
            for tensor in (*model.parameters(), *model.buffers()):
                return tensor.device
        return torch.device("cpu")

    def eval_mode(self, *, student: bool = True) -> AbstractContextManager[None]:
        """Put the teacher, and the student if it runs, in evaluation mode for the duration of a block."""
        return eval_mode(self.teacher, self.student) if student else eval_mode(self.teacher)

    def teacher_logits(self, images: Tensor) -> Tensor:
        """Return the teacher's logits `(B, K)`, differentiable with respect to `images`."""
        return self._logits(self.teacher, images, "teacher")

    def student_logits(self, images: Tensor) -> Tensor:
        """Return the student's logits `(B, K)`, differentiable with respect to `images`."""
        return self._logits(self.student, images, "student")

    @staticmethod
    def _logits(model: nn.Module, images: Tensor, network: str) -> Tensor:
        logits = check_logits(model(images), batch=len(images), network=network)
        # On a GPU, reading the value would synchronise with the device.
        if not logits.is_cuda and not math.isfinite(float(logits.detach().sum(dtype=torch.float64))):
            raise ValueError(
                f"the {network} returned NaN or infinite logits; its weights or its own normalisation are off "
                f"(try a lower learning rate, or check {network}(images) on its own)"
            )
        return logits
