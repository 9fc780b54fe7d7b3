"""Helpers of the kernel tests: device, random tensors, comparisons, recorded operators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hard_aug.ops.backend import interpreted

#: The kernels are compiled with a GPU, and interpreted on the CPU.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(
    DEVICE == "cpu" and not interpreted(), reason="needs a CUDA device, or TRITON_INTERPRET=1"
)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Assert equal shapes and types, and a difference of at most `tolerance` times the largest expected value."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    found, expected = found.detach().double(), expected.detach().double()
    if not expected.numel():
        return
    assert bool(torch.equal(found.isnan(), expected.isnan()))
    difference = (found - expected).abs().nan_to_num(0.0)
    assert float(difference.max()) <= tolerance * max(float(expected.nan_to_num(0.0).abs().max()), 1e-3)


class Operators(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))

    def ours(self) -> set[str]:
        """The operators of this library."""
        return {name.split("::")[1] for name in self.names if name.startswith("hard_aug::")}


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill new memory with NaN, and raise for operations without a deterministic implementation."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # with torch.utils.deterministic.fill_uninitialized_memory, the default
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
