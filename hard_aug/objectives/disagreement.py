"""Disagreement: what the augmenter maximises. Per sample, and differentiable in both players' logits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_divergence(*, teacher_logits: Tensor, student_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """`T^2 KL(softmax(t / T) || softmax(s / T))` per sample, in nats.

    The factor `T^2` keeps the gradient's size independent of the temperature (Hinton et al., arXiv:1503.02531).

    Args:
        teacher_logits: `t`, `(B, K)`.
        student_logits: `s`, `(B, K)`.
        temperature: `T`, above 0.

    Returns:
        `(B,)`, at least float32. Gradients: both logits, any order.
    """
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher's logits are {tuple(teacher_logits.shape)}, student's {tuple(student_logits.shape)}: "
            "both must name the same classes"
        )
    compute = torch.promote_types(torch.promote_types(teacher_logits.dtype, student_logits.dtype), torch.float32)
    teacher = F.log_softmax(teacher_logits.to(compute) / temperature, dim=-1)
    student = F.log_softmax(student_logits.to(compute) / temperature, dim=-1)
    return temperature**2 * (teacher.exp() * (teacher - student)).sum(-1)


class Disagreement(ABC):
    """A divergence `(B,)` of the two players' logits."""

    #: Whether the student's part of it is the outer distillation loss on the hard view, as `Joint` needs.
    is_distillation_loss: bool = False

    @abstractmethod
    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        """`(B,)` from two `(B, K)`."""


class KL(Disagreement):
    """`T^2 KL(teacher || student)`, the distillation loss itself.

    Args:
        temperature: `T`, above 0; also the default temperature of `HardBatch.loss`.
    """

    is_distillation_loss = True

    def __init__(self, temperature: float = 2.0) -> None:
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature={temperature}: wanted a positive number")
        self.temperature = float(temperature)

    def __call__(self, *, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return kl_divergence(teacher_logits=teacher_logits, student_logits=student_logits, temperature=self.temperature)
