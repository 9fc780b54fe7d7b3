"""PyTorch reference of the divergence: runs on the CPU, and the kernels are tested against it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_divergence(
    teacher_logits: Tensor,
    student_logits: Tensor,
    *,
    temperature: float,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute the divergence per sample; see `hard_aug.ops.divergence.kl_divergence`, which checks the arguments."""
    teacher, student = same_type(teacher_logits, student_logits)
    if mask is not None:  # before any arithmetic, so that no gradient of such a row is 0 * NaN
        teacher, student = (logits.masked_fill(~mask[:, None], 0.0) for logits in (teacher, student))
    divergence = kl_of_log_probabilities(
        F.log_softmax(teacher / temperature, dim=-1), F.log_softmax(student / temperature, dim=-1)
    )
    divergence = temperature**2 * divergence
    if weights is not None:
        weights = weights.detach().to(teacher.dtype)
        divergence = divergence * (weights if mask is None else weights.masked_fill(~mask, 0.0))
    return divergence


def kl_of_log_probabilities(first: Tensor, second: Tensor) -> Tensor:
    """Compute `sum p log(p / q)` over the last axis; a class with `p = 0` contributes 0.

    If `q = 0` for a class with `p > 0`, the divergence is infinite and has no gradient.

    Args:
        first: log p, `(..., K)`.
        second: log q, `(..., K)`.
    """
    excluded = (first == -math.inf) | (second == -math.inf)
    divergence = (first.exp() * torch.where(excluded, 0.0, first - second)).sum(-1)
    infinite = ((second == -math.inf) & (first > -math.inf)).any(-1)
    return torch.where(infinite, math.inf, divergence)


def same_type(teacher_logits: Tensor, student_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Convert both logits to one type of at least float32.

    Raises:
        ValueError: different shapes.
    """
    check_same_shape(teacher_logits, student_logits)
    compute = torch.promote_types(torch.promote_types(teacher_logits.dtype, student_logits.dtype), torch.float32)
    return teacher_logits.to(compute), student_logits.to(compute)


def check_same_shape(teacher_logits: Tensor, student_logits: Tensor) -> None:
    """Raise `ValueError` unless both logits have the same shape."""
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher's logits are {tuple(teacher_logits.shape)}, student's {tuple(student_logits.shape)}: "
            "expected the same samples and classes"
        )
