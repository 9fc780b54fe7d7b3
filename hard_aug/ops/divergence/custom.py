"""PyTorch custom operators of the divergence kernels, for autograd, `torch.compile` and CUDA graphs.

Importing this module registers the operators. Triton is imported, and a kernel compiled, at the first call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hard_aug.ops.backend import on_device_of, refuse_second_order

#: Maximum number of classes in a block, and minimum number of values in the rows of a program together.
MAX_BLOCK, MIN_VALUES = 4096, 512


def _common(
    teacher: Tensor,
    student: Tensor,
    weights: Tensor | None,
    mask: Tensor | None,
    temperature: float,
    gradients: list[Tensor],
    need_teacher: bool,
    need_student: bool,
) -> tuple[tuple[int], dict[str, Any]]:
    """Return the grid and the arguments of both kernels; the teacher stands in for a pointer that is not read."""
    batch, classes = teacher.shape
    block = min(1 << max(classes - 1, 1).bit_length(), MAX_BLOCK)
    rows = max(1, MIN_VALUES // block)
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
        "NEED_TEACHER": need_teacher,
        "NEED_STUDENT": need_student,
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
    need_teacher: bool,
    need_student: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the losses `(B,)`, row statistics for the backward pass, and the gradients of the sum of the losses.

    A gradient is empty if it is not needed. The classes of both logits are contiguous in memory.
    """
    from hard_aug.ops.divergence import triton as kernels

    losses, statistics, *gradients = _empty_outputs(teacher, student, need_teacher, need_student)
    if len(teacher):
        grid, common = _common(teacher, student, weights, mask, temperature, gradients, need_teacher, need_student)
        with on_device_of(teacher):
            kernels._forward[grid](losses=losses, statistics=statistics, **common)
    return losses, statistics, gradients[0], gradients[1]


@kl_divergence.register_fake
def _(teacher: Tensor, student: Tensor, *settings: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_outputs(teacher, student, *settings[-2:])


def _empty_outputs(
    teacher: Tensor, student: Tensor, need_teacher: bool, need_student: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch = len(teacher)
    return (
        teacher.new_empty(batch, dtype=torch.float32),
        teacher.new_empty(5, batch, dtype=torch.float32),
        *_empty_gradients(teacher, student, need_teacher, need_student),
    )


def _empty_gradients(teacher: Tensor, student: Tensor, need_teacher: bool, need_student: bool) -> tuple[Tensor, Tensor]:
    return (
        teacher.new_empty(teacher.shape if need_teacher else 0),
        student.new_empty(student.shape if need_student else 0),
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
    need_teacher: bool,
    need_student: bool,
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of both logits, each empty if it is not needed, from that of the losses, `(B,)`."""
    from hard_aug.ops.divergence import triton as kernels

    gradients = _empty_gradients(teacher, student, need_teacher, need_student)
    if len(teacher):
        grid, common = _common(
            teacher, student, weights, mask, temperature, list(gradients), need_teacher, need_student
        )
        with on_device_of(teacher):
            kernels._backward[grid](
                upstream=upstream, upstream_stride=upstream.stride(0), statistics=statistics, **common
            )
    return gradients


@kl_divergence_backward.register_fake
def _(upstream: Tensor, teacher: Tensor, student: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    return _empty_gradients(teacher, student, *settings[-2:])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    teacher, student, weights, mask, ctx.temperature, _, _ = inputs
    ctx.save_for_backward(teacher, student, weights, mask, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor | None, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing = (None,) * 5
    need_teacher, need_student = ctx.needs_input_grad[:2]
    if upstream is None or not (need_teacher or need_student):
        return (None, None, *nothing)
    teacher, student = kl_divergence_backward(upstream, *ctx.saved_tensors, ctx.temperature, need_teacher, need_student)
    return (teacher if need_teacher else None, student if need_student else None, *nothing)


kl_divergence.register_autograd(_backward, setup_context=_setup_context)
kl_divergence_backward.register_autograd(refuse_second_order("kl_divergence", "use backend='torch'"))
