"""Choice of the implementation of an operation: PyTorch functions or Triton kernels.

| backend | meaning |
|---|---|
| `auto` | Triton for CUDA tensors that the kernel supports, if triton is installed; else PyTorch |
| `torch` | the PyTorch reference, on any device, also in float64 |
| `triton` | the kernel; raises an error with the reason if it can't run, never falls back silently |

The `backend` argument of a call takes precedence, then the innermost `use_backend`, then the environment variable
HARD_AUG_BACKEND, then `auto`. With `triton` CPU tensors require Triton's interpreter (TRITON_INTERPRET=1 before Python
starts), which is for tests; `auto` never uses it, because it is slow.

The kernels have first derivatives in reverse mode, by `backward` and `torch.autograd.grad`. `torch.func` and
second derivatives require `torch`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

Backend = Literal["auto", "torch", "triton"]
ENVIRONMENT_VARIABLE = "HARD_AUG_BACKEND"
_context_backend: ContextVar[Backend | None] = ContextVar("hard_aug_backend", default=None)
_installed = find_spec("triton") is not None


@contextmanager
def use_backend(backend: Backend | None) -> Iterator[None]:
    """Set the default backend of the calls within the context.

    Enter it outside functions that `torch.compile` compiles; it can't be entered inside. A compiled function uses the
    backend of the context, and the environment variable as it was at compile time.

    Args:
        backend: "auto", "torch" or "triton"; None: change nothing.

    Raises:
        ValueError: an unknown backend.

    Example:
        >>> import torch
        >>> from hard_aug.ops import use_backend, warp_color
        >>> with use_backend("torch"):
        ...     warp_color(torch.rand(2, 3, 8, 8), clamp=True).shape
        torch.Size([2, 3, 8, 8])
    """
    if backend is None:
        yield
        return
    check_backend(backend)
    token = _context_backend.set(backend)
    try:
        yield
    finally:
        _context_backend.reset(token)


def current_backend() -> Backend:
    """Return the backend of calls without a `backend` argument.

    Raises:
        ValueError: the environment variable holds an unknown backend.
    """
    backend = _context_backend.get()
    if backend is not None:
        return backend
    named = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    check_backend(named, source=ENVIRONMENT_VARIABLE)
    return named  # type: ignore[return-value]  # checked in the line above


def check_backend(backend: str, *, source: str = "backend") -> None:
    """Raise `ValueError` for an unknown backend; `source` is named in the message."""
    if backend not in get_args(Backend):
        raise ValueError(f"{source}={backend!r}: expected one of {', '.join(get_args(Backend))}")


def use_triton(backend: Backend | None, device: torch.device, unsupported_reason: str | None) -> bool:
    """Return whether to run the Triton kernel.

    Args:
        backend: of the call; None: that of the context.
        device: of the tensors.
        unsupported_reason: why the kernel does not support the arguments; None if it does.

    Raises:
        ValueError: an unknown backend.
        RuntimeError: the backend is `triton`, and the kernel can't run.
    """
    if backend is None:
        backend = current_backend()
    else:
        check_backend(backend)
    if backend == "torch":
        return False
    if forward_ad._current_level >= 0:
        unsupported_reason = "the kernels have reverse-mode derivatives only, and this is a forward-mode derivative"
    if backend == "auto":
        return device.type == "cuda" and _installed and unsupported_reason is None
    if not _installed:
        unsupported_reason = "triton is not installed (it comes with torch on Linux)"
    elif device.type != "cuda" and not interpreted():
        unsupported_reason = (
            f"the tensors are on {device}, where kernels run only in Triton's interpreter; move them to a CUDA "
            "device, or set TRITON_INTERPRET=1 before Python starts"
        )
    if unsupported_reason is not None:
        raise RuntimeError(
            f"backend='triton': {unsupported_reason}; or use backend='torch' (or 'auto', which falls back to it)"
        )
    return True


def refuse_second_order(operation: str, remedy: str) -> Callable[..., None]:
    """Return a backward function, for operators that are themselves backward passes, which raises `RuntimeError`."""

    def refuse(ctx: Any, *gradients: Any) -> None:
        raise RuntimeError(f"{operation}: the kernels have no second derivative; {remedy}")

    return refuse


def on_device_of(tensor: Tensor) -> AbstractContextManager[None]:
    """Return a context in which kernels are launched on the device of `tensor`."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def interpreted() -> bool:
    """Return whether Triton runs kernels in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
