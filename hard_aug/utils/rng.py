"""Random numbers for a batch, the same whether one process holds it or several share it.

Several processes start from one seed. Each draws the numbers of the global batch and keeps its own rows, so the rows
differ from one process to another and the generators stay in step.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
#: Sizes of the states of generators: of a CUDA or XPU device, of MPS, of the CPU.
STATE_BYTES = (16, 44, 5056)


class ShardedGenerator(torch.Generator):
    """A generator that knows which rows of the global batch belong to its process.

    Args:
        device: of the numbers.
        rank: of this process, from 0.
        processes: number of processes; all have batches of equal size.

    Raises:
        ValueError: a rank that is not below the number of processes.
    """

    rank: int
    processes: int

    def __new__(cls, device: torch.device | str = "cpu", *, rank: int = 0, processes: int = 1) -> ShardedGenerator:
        """Create the generator on `device`; see the class for the other arguments."""
        return super().__new__(cls, device)  # type: ignore[call-arg]  # torch's stub has it in __init__

    def __init__(self, device: torch.device | str = "cpu", *, rank: int = 0, processes: int = 1) -> None:
        if not 0 <= rank < processes:
            raise ValueError(f"rank={rank} of {processes} processes: expected 0 to {processes - 1}")
        self.rank, self.processes = rank, processes

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy with the rank, the number of processes and the state, which the base class would lose."""
        return _restored, (str(self.device), self.rank, self.processes, self.get_state())

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardedGenerator:
        """Return a generator that draws the same from here on."""
        return _restored(*self.__reduce__()[1])


def _restored(device: str, rank: int, processes: int, state: Tensor) -> ShardedGenerator:
    generator = ShardedGenerator(device, rank=rank, processes=processes)
    generator.set_state(state)
    return generator


def randn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers, float32, on the generator's device; the first axis of `shape` is the batch's."""
    drawn_shape = (shape[0] * _processes(generator), *shape[1:])
    drawn = torch.randn(drawn_shape, generator=generator, device=generator.device, dtype=torch.float32)
    return _local_rows(drawn, shape[0], generator)


def rand(rows: int, generator: torch.Generator) -> Tensor:
    """Draw `(rows,)` numbers uniform in [0, 1), float32, on the generator's device."""
    count = rows * _processes(generator)
    drawn = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float32)
    return _local_rows(drawn, rows, generator)


def derangement(rows: int, generator: torch.Generator) -> Tensor:
    """Draw a random cycle `(rows,)`: a partner for each row of the process's own batch, never itself (unless alone)."""
    cycle = rand(rows, generator).argsort()
    return torch.empty_like(cycle).scatter_(0, cycle, cycle.roll(1))


def _processes(generator: torch.Generator) -> int:
    return generator.processes if isinstance(generator, ShardedGenerator) else 1


def _local_rows(drawn: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    if not isinstance(generator, ShardedGenerator):
        return drawn
    return drawn[generator.rank * rows : (generator.rank + 1) * rows]


def restore_generator(generator: torch.Generator, state: Tensor, *, fallback_seed: int) -> None:
    """Set a generator's state; if it comes from another kind of device, seed the generator anew, with a warning.

    Args:
        generator: to be set.
        state: as of `generator.get_state()`.
        fallback_seed: for a state from another kind of device.

    Raises:
        ValueError: a state of no known kind of generator.
    """
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
        return
    if state.dtype != torch.uint8 or len(state) not in STATE_BYTES:
        raise ValueError(f"the generator's state has {len(state)} values of {state.dtype}")
    generator.manual_seed(fallback_seed % 2**64)
    logger.warning("the state is of another kind of device: draws continue from a new seed, not bit-equal")
