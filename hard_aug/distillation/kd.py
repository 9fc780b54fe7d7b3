"""The outer loss of knowledge distillation (Hinton et al., arXiv:1503.02531)."""

from __future__ import annotations

from torch import Tensor

from hard_aug.ops.divergence import kl_divergence


def distillation_loss(*, student_logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """Batch mean of `T^2 KL(teacher || student)`, a scalar, from two `(B, K)`; the teacher's logits are detached.

    An empty batch gives 0, with a graph.
    """
    divergence = kl_divergence(
        teacher_logits=teacher_logits.detach(), student_logits=student_logits, temperature=temperature
    )
    return divergence.sum() / max(len(divergence), 1)
