"""Networks: teacher and student as the inner loop runs them, in evaluation mode and with checked logits."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from hard_aug.models.eval_mode import eval_mode
from hard_aug.models.forward_errors import device_of
from hard_aug.models.network import Network
from hard_aug.models.normalized import NetworkNormalizations


class Networks:
    """Teacher and student; neither is registered anywhere.

    Args:
        teacher: network from images in [0, 1] to logits `(B, K)`.
        student: likewise.
        normalization: of each, for networks that do not normalise by themselves; None: they take images in [0, 1].
    """

    def __init__(
        self, *, teacher: nn.Module, student: nn.Module, normalization: NetworkNormalizations | None = None
    ) -> None:
        given = (None, None) if normalization is None else normalization
        self.teacher = Network(teacher, name="teacher", normalization=given[0])
        self.student = Network(student, name="student", normalization=given[1])

    @property
    def device(self) -> torch.device:
        """Device of the networks' tensors; the CPU if they have none."""
        return device_of(self.student.module) or device_of(self.teacher.module) or torch.device("cpu")

    def eval_mode(self, *, student: bool = True) -> AbstractContextManager[None]:
        """Put the teacher, and the student if it runs, in evaluation mode for the duration of a block."""
        models = (self.teacher.inner, self.student.inner) if student else (self.teacher.inner,)
        return eval_mode(*models)

    def check_gradient(self, images: Tensor) -> None:
        """Raise unless a gradient of both networks reaches the images; see `Network.check_gradient`."""
        for network in (self.teacher, self.student):
            network.check_gradient(images)
