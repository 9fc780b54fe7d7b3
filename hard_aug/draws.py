"""Draws: random numbers for a batch, the same whether one process holds it or several share it.

Several processes start from one seed. Each draws the numbers of the global batch and keeps the rows of its own, so the
rows differ from one process to another and the generators stay in step.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class SharedGenerator(torch.Generator):
    """A generator that knows which rows of the global batch are its process's.

    Args:
        device: of the numbers.
        rank: of this process, from 0.
        processes: how many there are; all have batches of one size.
    """

    rank: int
    processes: int

    def __new__(cls, device: torch.device | str = "cpu", *, rank: int = 0, processes: int = 1) -> SharedGenerator:
        return super().__new__(cls, device)  # type: ignore[call-arg]  # torch's stub has it in __init__

    def __init__(self, device: torch.device | str = "cpu", *, rank: int = 0, processes: int = 1) -> None:
        if not 0 <= rank < processes:
            raise ValueError(f"rank={rank} of {processes} processes: wanted 0 to {processes - 1}")
        self.rank, self.processes = rank, processes


def normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal numbers, float32, on the generator's device; the first axis is that of the batch."""
    drawn = torch.randn((shape[0] * _processes(generator), *shape[1:]), generator=generator, device=generator.device)
    return _own_rows(drawn, shape[0], generator)


def uniform(rows: int, generator: torch.Generator) -> Tensor:
    """`(rows,)` uniform in [0, 1), float32, on the generator's device."""
    drawn = torch.rand(rows * _processes(generator), generator=generator, device=generator.device)
    return _own_rows(drawn, rows, generator)


def partners(rows: int, generator: torch.Generator) -> Tensor:
    """`(rows,)`, for each image of the process's own batch another one of it, each of them once (itself, if alone)."""
    circle = uniform(rows, generator).argsort()
    return torch.empty_like(circle).scatter_(0, circle, circle.roll(1))


def _processes(generator: torch.Generator) -> int:
    return generator.processes if isinstance(generator, SharedGenerator) else 1


def _own_rows(drawn: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    if not isinstance(generator, SharedGenerator):
        return drawn
    return drawn[generator.rank * rows : (generator.rank + 1) * rows]


def take_up_state(generator: torch.Generator, state: Tensor, *, fallback_seed: int) -> None:
    """Set a generator's state; one of another kind of device is replaced by a new seed, with a warning.

    Raises:
        ValueError: a state of neither kind.
    """
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
        return
    if state.dtype != torch.uint8 or len(state) not in (16, 5056):  # bytes of a CUDA and of a CPU generator
        raise ValueError(f"the generator's state has {len(state)} values of {state.dtype}")
    generator.manual_seed(fallback_seed)
    logger.warning("the state is of another kind of device: draws go on from a new seed, not bit-equal")
