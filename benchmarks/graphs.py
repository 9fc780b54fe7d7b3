"""CUDA graphs for benchmarks: many calls in one launch, so that the device is timed and not Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        make: returns the function that is timed; it may run out of memory.
        repeats: number of calls that the function makes.
        memcpy: the name of the row that copies the same number of bytes.
    """

    make: Callable[[], Call]
    repeats: int = 1
    memcpy: str | None = None


def eager(call: Call) -> Row:
    """Make a row of one eager call."""
    return Row(lambda: call)


def in_cuda_graph(call: Call, repeats: int, *, memcpy: str | None = None) -> Row:
    """Make a row that replays a CUDA graph of `repeats` calls."""
    return Row(lambda: graphed(call, repeats=repeats), repeats, memcpy)


def memcpy_row(bytes_moved: int, device: torch.device, repeats: int) -> Row:
    """Make a row that copies memory, in a CUDA graph on CUDA."""
    if device.type == "cuda":
        return Row(lambda: graphed(make_memcpy(bytes_moved, device), repeats=repeats), repeats)
    return Row(lambda: make_memcpy(bytes_moved, device))


def graphed(function: Call, *, repeats: int) -> Call:
    """Capture `repeats` calls of `function`, after warm-up on a side stream; return the function that replays them."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            outputs = function()

    def replay() -> object:
        graph.replay()
        return outputs, function  # keeps the outputs and, through the function, the inputs alive

    return replay


def make_memcpy(bytes_moved: int, device: torch.device) -> Call:
    """Return a copy that reads and writes `bytes_moved` bytes in total: the upper bound of memory-bound kernels."""
    source = torch.empty(bytes_moved // 8, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
