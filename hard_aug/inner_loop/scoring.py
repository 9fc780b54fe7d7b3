"""Scoring: `D - cost(I)` of each image, for policy updates and for searches with generative models.

`D` is the disagreement of teacher and student, `I` the divergence of the teacher's prediction from the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hard_aug.inner_loop.networks import Networks
from hard_aug.objectives import Disagreement, Invariance, Reference, teacher_divergence
from hard_aug.ops.elementwise import at_least_float32
from hard_aug.utils.checks import check_same_classes

#: The gradient of the logits enters a network with its largest value just under two to this. Larger ones overflow in
#: float16, and smaller ones vanish in the pixels of large images.
LARGEST_EXPONENT = 4


@dataclass(slots=True)
class Scores:
    """Scores of some images.

    Attributes:
        total: `(B,)`, `D - cost(I)`.
        disagreement: `(B,)`, `D`.
        teacher_divergence: `(B,)`, `I`, in nats.
        kept: `(B,)` bool, whether the teacher's prediction is that of the reference.
    """

    total: Tensor
    disagreement: Tensor
    teacher_divergence: Tensor
    kept: Tensor


def score_images(
    images: Tensor,
    *,
    networks: Networks,
    reference: Reference,
    objective: Disagreement,
    invariance: Invariance | None,
) -> Scores:
    """Compute `D - cost(I)` of each image, with autograd's graph if gradients are enabled.

    Args:
        images: `(B, C, H, W)` in [0, 1].
        networks: teacher and student.
        reference: predictions on the clean images.
        objective: `D`.
        invariance: the cost of the teacher's divergence; None: no cost.

    Raises:
        ValueError: teacher, student and reference have different numbers of classes.
    """
    teacher_logits, student_logits = networks.teacher(images), networks.student(images)
    check_same_classes(teacher_logits=teacher_logits, student_logits=student_logits)
    if reference.teacher_logits.shape[1] != teacher_logits.shape[1]:
        raise ValueError(
            f"labels of {reference.teacher_logits.shape[1]} classes, and the teacher has {teacher_logits.shape[1]}: "
            "give classes=, or tell the diffusion model which label stands for no class, "
            "condition=ClassLabels(K, none_label=K)"
        )
    return _score_logits(
        at_least_float32(teacher_logits),
        at_least_float32(student_logits),
        replace(reference, teacher_logits=at_least_float32(reference.teacher_logits)),
        objective,
        invariance,
    )


def score_images_with_gradient(
    images: Tensor,
    *,
    networks: Networks,
    reference: Reference,
    objective: Disagreement,
    invariance: Invariance,
    student: tuple[Tensor, Tensor] | None = None,
) -> tuple[Scores, Tensor, Tensor | None]:
    """Compute `D - cost(I)` of each image and its gradients, which half precision neither overflows nor loses.

    Args:
        images: `(B, C, H, W)` in [0, 1]; a graph behind them is not followed.
        networks: teacher and student.
        reference: predictions on the clean images; its `teacher_logits` may carry a graph (those of a mix do).
        objective: `D`.
        invariance: the cost of the teacher's divergence.
        student: its logits `(B, K)` and its part of the images' gradient, where they are known; None: it is run.

    Returns:
        The scores, detached; the gradient of each image's own score, `(B, C, H, W)`, at least float32; and the same for
        the reference logits, `(B, K)`, or None if they carry no graph.

    Raises:
        ValueError: logits through which no gradient reaches the images, or different numbers of classes.
    """
    networks.teacher.check_gradient(images)
    if student is None:
        networks.student.check_gradient(images)
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        teacher_logits = networks.teacher(images)
        student_logits = networks.student(images) if student is None else student[0]
        check_same_classes(teacher_logits=teacher_logits, student_logits=student_logits)
        # Leaves of at least float32: gradients of logits in float16 would be zeros where the networks are confident.
        teacher, own_student, target = (
            at_least_float32(logits.detach()).requires_grad_(logits.requires_grad)
            for logits in (teacher_logits, student_logits, reference.teacher_logits)
        )
        scores = _score_logits(teacher, own_student, replace(reference, teacher_logits=target), objective, invariance)
        leaves = [leaf for leaf in (teacher, own_student, target) if leaf.requires_grad]
        teacher_gradient, *others = grad_or_zeros(scores.total.sum(), leaves)
        image_gradient = _scaled_vjp(teacher_logits, images, teacher_gradient)
        student_part = _scaled_vjp(student_logits, images, others.pop(0)) if student is None else student[1]
        image_gradient = image_gradient + student_part
    detached = Scores(
        *(part.detach() for part in (scores.total, scores.disagreement, scores.teacher_divergence, scores.kept))
    )
    return detached, image_gradient, others[0] if others else None


def _score_logits(
    teacher_logits: Tensor,
    student_logits: Tensor,
    reference: Reference,
    objective: Disagreement,
    invariance: Invariance | None,
) -> Scores:
    disagreement = objective(teacher_logits=teacher_logits, student_logits=student_logits, reference=reference)
    divergence = teacher_divergence(reference_logits=reference.teacher_logits, hard_logits=teacher_logits)
    total = disagreement if invariance is None else disagreement - invariance.cost(divergence)
    return Scores(total, disagreement, divergence, teacher_logits.argmax(1) == reference.teacher_logits.argmax(1))


def _scaled_vjp(logits: Tensor, images: Tensor, gradient: Tensor) -> Tensor:
    """Return the images' gradient, at least float32, for the gradient `(B, K)` of the logits.

    Each sample's gradient is scaled by its own power of two before it goes through the network and back after. In
    float16 the gradients of confident networks, or of networks that nearly agree, would be zeros, and larger ones would
    overflow. Samples do not mix in evaluation mode, so this changes nothing else.
    """
    largest = gradient.abs().amax(-1)
    exponent = torch.where(largest > 0, LARGEST_EXPONENT - torch.frexp(largest).exponent, 0)
    exponent = exponent.clamp(-126, 126).to(gradient.dtype)
    scaled = gradient * torch.exp2(exponent)[:, None]
    (found,) = grad_or_zeros(logits, [images], scaled.to(logits.dtype))
    return at_least_float32(found) * torch.exp2(-exponent)[:, None, None, None]


def grad_or_zeros(
    outputs: Tensor | Sequence[Tensor], inputs: Sequence[Tensor], weights: Tensor | Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Call `torch.autograd.grad`, with zeros for inputs that the outputs do not depend on."""
    found = grad_or_none(outputs, inputs, weights)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]


def grad_or_none(
    outputs: Tensor | Sequence[Tensor], inputs: Sequence[Tensor], weights: Tensor | Sequence[Tensor] | None = None
) -> Sequence[Tensor | None]:
    """Call `torch.autograd.grad`, with None for inputs that the outputs do not depend on.

    It runs outside the caller's autocast, which would take the products of the backward in low precision whatever the
    precision of the forward was.
    """
    if not inputs:
        return []
    with torch.autocast(inputs[0].device.type, enabled=False):
        return torch.autograd.grad(outputs, inputs, grad_outputs=weights, allow_unused=True)
