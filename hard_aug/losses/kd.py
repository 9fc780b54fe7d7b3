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
        ValueError: a temperature that is not positive, unequal shapes, or a single class.
    """
    for name, logits in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        if isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] < 2:
            raise ValueError(
                f"{name} of shape {tuple(logits.shape)}: expected at least two classes, because a softmax over one "
                "logit is constant; for a binary network with the logit z use torch.cat((torch.zeros_like(z), z), 1)"
            )
    divergence = kl_divergence(
        teacher_logits=teacher_logits.detach(), student_logits=student_logits, temperature=temperature
    )
    return divergence.sum() / max(len(divergence), 1)
