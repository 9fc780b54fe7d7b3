"""The divergence kernels as custom operators of PyTorch: known to autograd, `torch.compile` and CUDA graphs.

They are registered when this file is imported; triton is imported, and a kernel compiled, when one runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hard_aug.ops.backend import on_device_of, refuse_second_order

#: Classes that a program takes at once, at most, and how many values of rows together it takes at least.
LARGEST_BLOCK, VALUES = 4096, 512


def _common(
    teacher: Tensor,
    student: Tensor,
    weights: Tensor | None,
    mask: Tensor | None,
    temperature: float,
    gradients: list[Tensor],
    want_teacher: bool,
    want_student: bool,
) -> tuple[tuple[int], dict[str, Any]]:
    """The grid, and the arguments of both kernels. A pointer that is not read has the teacher in its place."""
    batch, classes = teacher.shape
    block = min(1 << max(classes - 1, 1).bit_length(), LARGEST_BLOCK)
    rows = max(1, VALUES // block)
    return (-(-batch // rows),), {
        "teacher": teacher,
        "student": student,
        "weights": teacher if weights is None else weights,
        "mask": teacher if mask is None else mask,
        "teacher_gradient": gradients[0],
        "student_gradient": gradients[1],
        "teacher_stride": teacher.stride(0),
        "student_stride": student.stride(0),
        "batch": batch,
        "classes": classes,
        "temperature": temperature,
        "WEIGHTED": weights is not None,
        "MASKED": mask is not None,
        "WANT_TEACHER": want_teacher,
        "WANT_STUDENT": want_student,
        "ROWS": rows,
        "BLOCK": block,
        "num_warps": 8 if block > 2048 else 4,
    }


@torch.library.custom_op("hard_aug::kl_divergence", mutates_args=())
def kl_divergence(
    teacher: Tensor,
    student: Tensor,
    weights: Tensor | None,
    mask: Tensor | None,
    temperature: float,
    want_teacher: bool,
    want_student: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses `(B,)`, what the backward wants to know of the rows, and gradients (empty where not wanted).

    The classes of both logits lie side by side in memory.
    """
    from hard_aug.ops.divergence import triton as kernels

    losses, statistics, *gradients = _outputs(teacher, student, want_teacher, want_student)
    if not len(teacher):
        return losses, statistics, gradients[0], gradients[1]
    grid, common = _common(teacher, student, weights, mask, temperature, gradients, want_teacher, want_student)
    with on_device_of(teacher):
        kernels._forward[grid](losses=losses, statistics=statistics, **common)
    return losses, statistics, gradients[0], gradients[1]


@kl_divergence.register_fake
def _(
    teacher: Tensor,
    student: Tensor,
    weights: Tensor | None,
    mask: Tensor | None,
    temperature: float,
    want_teacher: bool,
    want_student: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _outputs(teacher, student, want_teacher, want_student)


def _outputs(
    teacher: Tensor, student: Tensor, want_teacher: bool, want_student: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, classes = teacher.shape
    return (
        teacher.new_empty(batch, dtype=torch.float32),
        teacher.new_empty(5, batch, dtype=torch.float32),
        teacher.new_empty((batch, classes) if want_teacher else 0),
        student.new_empty((batch, classes) if want_student else 0),
    )


@torch.library.custom_op("hard_aug::kl_divergence_backward", mutates_args=())
def kl_divergence_backward(
    upstream: Tensor,
    teacher: Tensor,
    student: Tensor,
    weights: Tensor | None,
    mask: Tensor | None,
    statistics: Tensor,
    temperature: float,
    want_teacher: bool,
    want_student: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of both logits, each empty where it is not wanted, from that of the losses, `(B,)`."""
    from hard_aug.ops.divergence import triton as kernels

    _, _, *gradients = _outputs(teacher, student, want_teacher, want_student)
    if not len(teacher):
        return gradients[0], gradients[1]
    grid, common = _common(teacher, student, weights, mask, temperature, gradients, want_teacher, want_student)
    with on_device_of(teacher):
        kernels._backward[grid](upstream=upstream, upstream_stride=upstream.stride(0), statistics=statistics, **common)
    return gradients[0], gradients[1]


@kl_divergence_backward.register_fake
def _(
    upstream: Tensor,
    teacher: Tensor,
    student: Tensor,
    weights: Tensor | None,
    mask: Tensor | None,
    statistics: Tensor,
    temperature: float,
    want_teacher: bool,
    want_student: bool,
) -> tuple[Tensor, Tensor]:
    _, _, first, second = _outputs(teacher, student, want_teacher, want_student)
    return first, second


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    teacher, student, weights, mask, ctx.temperature, _, _ = inputs
    ctx.save_for_backward(teacher, student, weights, mask, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 5
    want_teacher, want_student = ctx.needs_input_grad[:2]
    if upstream is None or not (want_teacher or want_student):
        return (None, None, *nothing)
    found = kl_divergence_backward(upstream, *ctx.saved_tensors, ctx.temperature, want_teacher, want_student)
    return (found[0] if want_teacher else None, found[1] if want_student else None, *nothing)


kl_divergence.register_autograd(_backward, setup_context=_setup_context)
kl_divergence_backward.register_autograd(refuse_second_order("kl_divergence", "use backend='torch'"))
