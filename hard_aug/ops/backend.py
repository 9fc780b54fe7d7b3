"""Backend: which implementation of an operation runs, PyTorch's own functions or a Triton kernel.

| backend | meaning |
|---|---|
| `auto` | Triton for CUDA tensors that the kernel serves, where triton is installed; else PyTorch |
| `torch` | the reference in PyTorch, on any device, float64 too |
| `triton` | the kernel, or an error that says why it can't be: never a silent replacement |

Chosen by the argument of a call; without one by the innermost `use_backend`; without one by the environment variable
HARD_AUG_BACKEND; without that it is `auto`. Tensors on the CPU are served by `triton` only under its interpreter
(TRITON_INTERPRET=1 before Python starts), for tests; `auto` never takes that for them, it is slow.

The kernels have first derivatives in reverse mode, by `backward` and `torch.autograd.grad`. `torch.func` and second
derivatives want `torch`.
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
VARIABLE = "HARD_AUG_BACKEND"
_within: ContextVar[Backend | None] = ContextVar("hard_aug_backend", default=None)
_installed = find_spec("triton") is not None


@contextmanager
def use_backend(backend: Backend | None) -> Iterator[None]:
    """Within it, calls that name no backend take this one; None changes nothing.

    To be entered outside what `torch.compile` compiles: it can't be entered inside. What is compiled takes the backend
    of the context, and of the environment variable as it was when that was compiled.

    Raises:
        ValueError: an unknown backend.
    """
    if backend is None:
        yield
        return
    check_backend(backend)
    token = _within.set(backend)
    try:
        yield
    finally:
        _within.reset(token)


def current_backend() -> Backend:
    """What calls that name no backend take here.

    Raises:
        ValueError: the environment variable holds something else.
    """
    within = _within.get()
    if within is not None:
        return within
    named = os.environ.get(VARIABLE) or "auto"
    check_backend(named, source=VARIABLE)
    return named  # type: ignore[return-value]  # checked in the line above


def check_backend(backend: str, *, source: str = "backend") -> None:
    """Raise `ValueError` for a backend that is none."""
    if backend not in get_args(Backend):
        raise ValueError(f"{source}={backend!r}: wanted one of {', '.join(get_args(Backend))}")


def takes_triton(backend: Backend | None, device: torch.device, refusal: str | None) -> bool:
    """Whether the kernel is to run.

    Args:
        backend: of the call; None: that of the context.
        device: where the tensors are.
        refusal: why the kernel does not serve them; None: it does.

    Raises:
        ValueError: an unknown backend.
        RuntimeError: `triton` was asked for, and can't serve.
    """
    if backend is None:
        backend = current_backend()
    else:
        check_backend(backend)
    if backend == "torch":
        return False
    if forward_ad._current_level >= 0:
        refusal = "the kernels have derivatives in reverse mode alone, and this is a forward-mode derivative"
    if backend == "auto":
        return device.type == "cuda" and _installed and refusal is None
    if not _installed:
        refusal = "triton is not installed (it comes with torch on Linux)"
    elif device.type != "cuda" and not interpreted():
        refusal = (
            f"the tensors are on {device}, where kernels run only under Triton's interpreter; move them to a CUDA "
            "device, or set TRITON_INTERPRET=1 before Python starts"
        )
    if refusal is not None:
        raise RuntimeError(f"backend='triton': {refusal}; or use backend='torch' (or 'auto', which takes what serves)")
    return True


def refuse_second_order(operation: str, remedy: str) -> Callable[..., None]:
    """A backward for the operators that are backwards themselves."""

    def refuse(ctx: Any, *gradients: Any) -> None:
        raise RuntimeError(f"{operation}: the kernels have no second derivative; {remedy}")

    return refuse


def on_device_of(tensor: Tensor) -> AbstractContextManager[None]:
    """Within it kernels are launched where `tensor` is."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def interpreted() -> bool:
    """Whether Triton's kernels run under its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")
