"""PyTorch reference of the divergence: runs on the CPU, and the kernels are tested against it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hard_aug.ops.elementwise import at_least_float32
from hard_aug.utils.checks import TWO_CLASSES


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
    divergence = temperature**2 * kl_of_log_probabilities(
        log_probabilities(teacher, temperature), log_probabilities(student, temperature)
    )
    if weights is not None:
        weights = weights.detach().to(teacher.dtype)
        divergence = divergence * (weights if mask is None else weights.masked_fill(~mask, 0.0))
    return divergence


def kl_of_log_probabilities(first: Tensor, second: Tensor) -> Tensor:
    """Compute `sum p log(p / q)` over the last axis; a class with `p = 0` contributes 0.

    If `log q = -inf` for a class with `p > 0`, the divergence is infinite and has no gradient. Probabilities that are 0
    in the arithmetic's type count as 0, so classes that both networks mask with large finite numbers are as if they did
    not exist, whatever the two numbers are.

    Args:
        first: log p, `(..., K)`.
        second: log q, `(..., K)`.
    """
    p = first.exp()
    excluded = (p == 0) | (second == -math.inf)  # not 0 * (first - second), which may be 0 * inf
    divergence = (p * torch.where(excluded, 0.0, first - second)).sum(-1)
    infinite = ((second == -math.inf) & (p > 0)).any(-1)
    return torch.where(infinite, math.inf, divergence)


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return the logarithm of `softmax(logits / temperature)` over the last axis, `(..., K)`."""
    return F.log_softmax(below_maximum(logits, temperature) / temperature, dim=-1)


def below_maximum(logits: Tensor, temperature: float) -> Tensor:
    """Subtract the largest logit where a temperature below 1 could otherwise take large ones out of their type.

    Returns:
        `(..., K)`, then at least float32.
    """
    if temperature >= 1:
        return logits
    logits = at_least_float32(logits)
    return logits - logits.detach().amax(-1, keepdim=True)


def log_add(first: Tensor, second: Tensor) -> Tensor:
    """Compute `log(exp(first) + exp(second))`; where both are -inf, so is it, with a gradient of 0 in place of NaN."""
    nothing = (first == -math.inf) & (second == -math.inf)
    found = torch.logaddexp(first.masked_fill(nothing, 0.0), second.masked_fill(nothing, 0.0))
    return found.masked_fill(nothing, -math.inf)


def same_type(teacher_logits: Tensor, student_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Convert both logits to one type of at least float32.

    Raises:
        ValueError: different shapes.
    """
    check_same_shape(teacher_logits, student_logits)
    compute = torch.promote_types(torch.promote_types(teacher_logits.dtype, student_logits.dtype), torch.float32)
    return teacher_logits.to(compute), student_logits.to(compute)


def check_same_shape(teacher_logits: Tensor, student_logits: Tensor) -> None:
    """Raise `ValueError` unless both logits have the same shape, of at least two classes."""
    if teacher_logits.shape != student_logits.shape:
        raise ValueError(
            f"teacher's logits are {tuple(teacher_logits.shape)}, student's {tuple(student_logits.shape)}: "
            "expected the same samples and classes"
        )
    if teacher_logits.ndim and teacher_logits.shape[-1] < 2:
        raise ValueError(f"logits of shape {tuple(teacher_logits.shape)}: {TWO_CLASSES}")
