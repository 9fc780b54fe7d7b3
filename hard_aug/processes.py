"""Processes: what is summed over the processes of a distributed run before it is used."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class Processes:
    """The default process group as it is now, or this process alone.

    Attributes:
        rank: of this process.
        count: how many there are.
        unequal: a bool scalar on the device: batches of different size were met.
    """

    def __init__(self, device: torch.device) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.count = dist.get_world_size() if together else 1
        self.unequal = torch.zeros((), dtype=torch.bool, device=device)

    @property
    def alone(self) -> bool:
        """Whether there is nobody to wait for."""
        return self.count == 1

    def check_not_empty(self, rows: int) -> None:
        """Raise `ValueError` for a batch without rows in a process that others wait for."""
        if rows == 0 and not self.alone:
            raise ValueError(
                f"an empty batch in process {self.rank} of {self.count}: the others would wait for it; use a "
                "DistributedSampler, or drop_last=True"
            )

    def mean(self, values: Sequence[Tensor], rows: int) -> list[Tensor]:
        """The means over all processes of values that are means over `rows` rows in each, in one exchange.

        Every process has to call it, with tensors of the same shapes; one that has no rows counts for nothing.

        Raises:
            ValueError: different `rows` in different processes, in all of them alike. (On a GPU that is noted in
                `unequal` instead, since to ask would be to wait.)
        """
        if self.alone:
            return list(values)
        # Made on the device: a tensor of a list is copied from the host and waited for.
        sizes = [values[0].new_full((1,), float(size)) for size in (rows, rows**2, rows > 0)]
        # Weighted by selection, not by a product: a process without rows may hold anything.
        parts = [value.flatten() * rows if rows else torch.zeros_like(value).flatten() for value in values]
        packed = torch.cat([part.to(torch.float32) for part in (*parts, *sizes)])
        dist.all_reduce(packed)
        total, squares, taking_part = packed[-3:]
        unequal = (squares * taking_part - total.square()).abs() > 0.5
        if packed.is_cuda:
            self.unequal |= unequal
        elif bool(unequal):
            raise ValueError(
                f"batches of different size in the {self.count} processes ({rows} rows in process {self.rank}, "
                f"{float(total / taking_part):g} on average): draws are shared by equal batches; use a "
                "DistributedSampler, or drop_last=True"
            )
        sums = torch.split(packed[:-3], [value.numel() for value in values])
        return [
            (part / total.clamp(min=1)).view_as(value).to(value.dtype) for part, value in zip(sums, values, strict=True)
        ]
