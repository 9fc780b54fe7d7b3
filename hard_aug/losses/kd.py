"""The outer loss of knowledge distillation (Hinton et al., arXiv:1503.02531)."""

from __future__ import annotations

from torch import Tensor

from hard_aug.ops.divergence import kl_divergence


def distillation_loss(*, student_logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """Compute the batch mean of `T^2 KL(teacher || student)`.

    Args:
        student_logits: `(B, K)`, with a graph.
        teacher_logits: `(B, K)`, detached here.
        temperature: `T`, above 0.

    Returns:
        A scalar; for an empty batch 0, with a graph.

    Raises:
        ValueError: a temperature that is not positive, or unequal shapes.
    """
    divergence = kl_divergence(
        teacher_logits=teacher_logits.detach(), student_logits=student_logits, temperature=temperature
    )
    return divergence.sum() / max(len(divergence), 1)
