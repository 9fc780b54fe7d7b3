"""The Kullback-Leibler divergence of two softmax distributions from raw logits, with gradients, in fused kernels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hard_aug.ops.backend import Backend, takes_triton
from hard_aug.ops.divergence import custom, reference
from hard_aug.ops.divergence.reference import check_same_shape, kl_of_log_probabilities
from hard_aug.ops.formats import KERNEL_TYPES

__all__ = ["check_temperature", "kl_divergence", "kl_divergence_with_gradients", "kl_of_log_probabilities"]


def kl_divergence(
    *,
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """`T^2 KL(softmax(t / T) || softmax(s / T))` per sample, in nats. The reverse divergence: swap the arguments.

    The factor `T^2` keeps the gradient's size independent of the temperature (Hinton et al., arXiv:1503.02531).

    Args:
        teacher_logits: `t`, `(B, K)`; -inf rules a class out.
        student_logits: `s`, `(B, K)`.
        temperature: `T`, above 0.
        weights: `(B,)`, constants by which the samples' divergences are multiplied; None: 1.
        mask: `(B,)` bool; False: the sample counts 0 and has no gradient, whatever its logits hold; None: all count.
        backend: see `hard_aug.ops.backend`; None: that of the context.

    Returns:
        `(B,)`, at least float32. A class that the teacher rules out adds nothing. Where the student rules out what the
            teacher does not, it is infinite and has no gradient. Gradients: both logits, any order (second and higher
            with PyTorch alone).

    Raises:
        TypeError, ValueError: a temperature that is not positive, other types or shapes.
        RuntimeError: `backend="triton"`, and the kernel does not serve: it takes no float64.
    """
    if not _takes_kernel(teacher_logits, student_logits, temperature, weights, mask, backend):
        return reference.kl_divergence(
            teacher_logits, student_logits, temperature=temperature, weights=weights, mask=mask
        )
    losses: Tensor = custom.kl_divergence(
        *_plain(teacher_logits, student_logits, weights, mask), float(temperature), False, False
    )[0]
    return losses


def kl_divergence_with_gradients(
    *,
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`kl_divergence` and the gradients of its sum, with the kernel in a single launch.

    Returns:
        `(B,)`, and the gradients of the teacher's and of the student's logits, `(B, K)` of their types; no graph.
    """
    if _takes_kernel(teacher_logits, student_logits, temperature, weights, mask, backend):
        losses, _, *gradients = custom.kl_divergence(
            *_plain(teacher_logits.detach(), student_logits.detach(), weights, mask), float(temperature), True, True
        )
        return losses, gradients[0], gradients[1]
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [logits.detach().clone().requires_grad_() for logits in (teacher_logits, student_logits)]
        losses = reference.kl_divergence(*leaves, temperature=temperature, weights=weights, mask=mask)
        teacher, student = torch.autograd.grad(losses.sum(), leaves)
    return losses.detach(), teacher, student


def check_temperature(temperature: float) -> None:
    """Raise `ValueError` unless it is a positive number."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature={temperature}: wanted a positive number")


def _takes_kernel(
    teacher: Tensor,
    student: Tensor,
    temperature: float,
    weights: Tensor | None,
    mask: Tensor | None,
    backend: Backend | None,
) -> bool:
    """Check all arguments and say whether the kernel is to run."""
    check_temperature(temperature)
    for name, value in (("teacher_logits", teacher), ("student_logits", student), ("weights", weights), ("mask", mask)):
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{name}: wanted a torch.Tensor, got {type(value).__name__}")
    check_same_shape(teacher, student)
    for name, rows in (("weights", weights), ("mask", mask)):
        if rows is not None and rows.shape != teacher.shape[:1]:
            raise ValueError(f"{name}: wanted shape {tuple(teacher.shape[:1])}, got {tuple(rows.shape)}")
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"mask is {mask.dtype}: wanted torch.bool")
    tensors = {"teacher_logits": teacher, "student_logits": student, "weights": weights}
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} are {tensor.dtype}: wanted floating point")
    devices = {tensor.device for tensor in (*tensors.values(), mask) if tensor is not None}
    if len(devices) > 1:
        raise ValueError(f"arguments on several devices, {', '.join(sorted(map(str, devices)))}: wanted one")
    return takes_triton(backend, teacher.device, _refusal(tensors))


def _refusal(tensors: dict[str, Tensor | None]) -> str | None:
    """Why the kernel does not serve; None: it does."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in KERNEL_TYPES:
            return f"the kernel takes float16, bfloat16 or float32, and {name} are {tensor.dtype}"
    logits = tensors["teacher_logits"]
    if logits is not None and (logits.ndim != 2 or logits.shape[1] == 0):
        return f"the kernel takes logits of shape (B, K), got {tuple(logits.shape)}"
    if logits is not None and (5 * logits.shape[0] >= 2**31 or logits.shape[1] >= 2**31 - 8192):
        return f"the kernel counts rows and classes in 32 bits, got {tuple(logits.shape)}; use smaller batches"
    return None


def _plain(
    teacher: Tensor, student: Tensor, weights: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """As the kernels read it."""
    teacher, student = (logits if logits.stride(1) == 1 else logits.contiguous() for logits in (teacher, student))
    if weights is not None:
        weights = weights.detach().to(torch.float32).contiguous()
    return teacher, student, weights, None if mask is None else mask.contiguous()
