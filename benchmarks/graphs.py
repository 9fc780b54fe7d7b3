"""CUDA graphs for benchmarks: many calls in one launch, so that what is timed is the device and not Python."""

from __future__ import annotations

from collections.abc import Callable

import torch


def graphed(function: Callable[[], object], *, repeats: int) -> Callable[[], object]:
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
        return kept  # the memory of the last result stays the graph's

    return replay


def copying(bytes_moved: int, device: torch.device) -> Callable[[], object]:
    """A plain copy that reads and writes so many bytes in all: the ceiling for anything that has to move them."""
    source = torch.empty(bytes_moved // 8, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
