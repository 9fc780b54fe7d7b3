"""Kullback-Leibler divergence of two softmax distributions from raw logits, with gradients, in fused kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from hard_aug.ops.backend import Backend, use_triton
from hard_aug.ops.divergence import custom, reference
from hard_aug.ops.divergence.reference import below_maximum, check_same_shape, kl_of_log_probabilities
from hard_aug.ops.memory_formats import KERNEL_DTYPES
from hard_aug.utils.checks import check_positive_number

__all__ = ["kl_divergence", "kl_divergence_with_gradients", "kl_of_log_probabilities"]


def kl_divergence(
    *,
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Compute `T^2 KL(softmax(t / T) || softmax(s / T))` per sample, in nats; swap the arguments for the reverse KL.

    The factor `T^2` makes the magnitude of the gradient independent of the temperature (Hinton et al.,
    arXiv:1503.02531).

    Args:
        teacher_logits: `t`, `(B, K)`; -inf gives a class the probability 0.
        student_logits: `s`, `(B, K)`.
        temperature: `T`, above 0.
        weights: `(B,)`, constants that multiply the divergence of each sample; None: 1.
        mask: `(B,)` bool; False: the divergence of the sample is 0 and has no gradient, whatever its logits are;
            None: all samples are used.
        backend: see `hard_aug.ops.backend`; None: that of the context.

    Returns:
        `(B,)`, at least float32. A class with probability 0 under the teacher contributes 0, also one that is 0 in
        float32 only, so that both networks may mask it with any large number. If a class has probability 0 under the
        student only, the divergence is infinite and has no gradient.

    Gradients: both logits, any order (second and higher with the PyTorch backend only).

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, a temperature that is not positive, arguments on several devices.
        RuntimeError: `backend="triton"`, and the kernel does not support the arguments: it requires `(B, K)` logits and
            no float64.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[1.0, 2.0, 3.0]])
        >>> kl_divergence(teacher_logits=logits, student_logits=logits + 5.0, temperature=2.0)
        tensor([0.])
    """
    if not _runs_kernel(teacher_logits, student_logits, temperature, weights, mask, backend):
        return reference.kl_divergence(
            teacher_logits, student_logits, temperature=temperature, weights=weights, mask=mask
        )
    given = _for_kernel(teacher_logits, student_logits, weights, mask, temperature)
    return custom.kl_divergence(*given, float(temperature), False, False)[0]  # type: ignore[no-any-return]


def kl_divergence_with_gradients(
    *,
    teacher_logits: Tensor,
    student_logits: Tensor,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `kl_divergence` and the gradients of its sum; with the kernel in a single launch.

    Args:
        teacher_logits: see `kl_divergence`.
        student_logits: see `kl_divergence`.
        temperature: see `kl_divergence`.
        weights: see `kl_divergence`.
        mask: see `kl_divergence`.
        backend: see `kl_divergence`.

    Returns:
        The divergences `(B,)`, and the gradients of the teacher's and of the student's logits, `(B, K)` of their types.
        None of them is attached to an autograd graph.
    """
    if _runs_kernel(teacher_logits, student_logits, temperature, weights, mask, backend):
        given = _for_kernel(teacher_logits.detach(), student_logits.detach(), weights, mask, temperature)
        losses, _, *gradients = custom.kl_divergence(*given, float(temperature), True, True)
        return losses, gradients[0].to(teacher_logits.dtype), gradients[1].to(student_logits.dtype)
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [logits.detach().clone().requires_grad_() for logits in (teacher_logits, student_logits)]
        losses = reference.kl_divergence(*leaves, temperature=temperature, weights=weights, mask=mask)
        teacher, student = torch.autograd.grad(losses.sum(), leaves)
    return losses.detach(), teacher, student


def _runs_kernel(
    teacher: Tensor,
    student: Tensor,
    temperature: float,
    weights: Tensor | None,
    mask: Tensor | None,
    backend: Backend | None,
) -> bool:
    """Check all arguments and return whether to run the kernel."""
    check_positive_number(temperature=temperature)
    for name, value in (("teacher_logits", teacher), ("student_logits", student), ("weights", weights), ("mask", mask)):
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    check_same_shape(teacher, student)
    for name, rows in (("weights", weights), ("mask", mask)):
        if rows is not None and rows.shape != teacher.shape[:1]:
            raise ValueError(f"{name}: expected shape {tuple(teacher.shape[:1])}, got {tuple(rows.shape)}")
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"mask is {mask.dtype}: expected torch.bool")
    tensors = {"teacher_logits": teacher, "student_logits": student, "weights": weights}
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} are {tensor.dtype}: expected floating point")
    devices = {tensor.device for tensor in (*tensors.values(), mask) if tensor is not None}
    if len(devices) > 1:
        raise ValueError(f"arguments on several devices, {', '.join(sorted(map(str, devices)))}: expected one")
    return use_triton(backend, teacher.device, _unsupported_reason(tensors))


def _unsupported_reason(tensors: dict[str, Tensor | None]) -> str | None:
    """Return why the kernel does not support the arguments; None if it does."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in KERNEL_DTYPES:
            return f"the kernel requires float16, bfloat16 or float32, and {name} are {tensor.dtype}"
    logits = tensors["teacher_logits"]
    if logits is not None and logits.ndim != 2:
        return f"the kernel requires logits of shape (B, K), got {tuple(logits.shape)}"
    if logits is not None and (5 * logits.shape[0] >= 2**31 or logits.shape[1] >= 2**31 - 8192):
        return f"the kernel indexes rows and classes in 32 bits, got {tuple(logits.shape)}; use smaller batches"
    return None


def _for_kernel(
    teacher: Tensor, student: Tensor, weights: Tensor | None, mask: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Convert the arguments to the types and memory layouts that the kernels require."""
    teacher, student = (below_maximum(logits, temperature) for logits in (teacher, student))
    teacher, student = (logits if logits.stride(1) == 1 else logits.contiguous() for logits in (teacher, student))
    if weights is not None:
        weights = weights.detach().to(torch.float32).contiguous()
    return teacher, student, weights, None if mask is None else mask.contiguous()
