"""CUDA graphs for benchmarks: many calls in one launch, so that what is timed is the device and not Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Row:
    """What is timed.

    Attributes:
        make: makes the call; it may run out of memory.
        repeats: how many calls that one is.
        copy: the name of the row that is a copy of the same bytes.
    """

    make: Callable[[], Call]
    repeats: int = 1
    copy: str | None = None


def plain(call: Call) -> Row:
    """A row that is one call."""
    return Row(lambda: call)


def in_a_graph(call: Call, repeats: int, *, copy: str | None = None) -> Row:
    """A row that plays back so many calls."""
    return Row(lambda: graphed(call, repeats=repeats), repeats, copy)


def copy_row(bytes_moved: int, device: torch.device, repeats: int) -> Row:
    """A plain copy, in a graph where there are graphs."""
    if device.type == "cuda":
        return Row(lambda: graphed(copying(bytes_moved, device), repeats=repeats), repeats)
    return Row(lambda: copying(bytes_moved, device))


def graphed(function: Call, *, repeats: int) -> Call:
    """Plays back `repeats` calls of `function`, recorded after some of it on a side stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            kept = function()

    def replay() -> object:
        graph.replay()
        return kept, function  # what is written, and through the function what is read, lives as long as this does

    return replay


def copying(bytes_moved: int, device: torch.device) -> Call:
    """A plain copy that reads and writes so many bytes in all: the ceiling for anything that has to move them."""
    source = torch.empty(bytes_moved // 8, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
