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

    def agree(self, rows: int, error: Exception | None) -> None:
        """Raise `error`, if this process has one, and else `ValueError` if its call does not fit the others'.

        Every process has to call it. On a GPU batches of different size are noted in `unequal` instead, and the error
        of another process goes unnoticed, since to ask would be to wait.

        Args:
            rows: of this process's batch.
            error: why it can't take part.
        """
        if error is None and rows == 0 and not self.alone:
            error = ValueError(
                f"an empty batch in process {self.rank} of {self.count}: the others would wait for it; use a "
                "DistributedSampler, or drop_last=True"
            )
        if not self.alone:
            # Made on the device: a tensor of a list is copied from the host and waited for.
            device = self.unequal.device
            counts = torch.cat([torch.full((1,), float(c), device=device) for c in (rows, rows**2, error is not None)])
            dist.all_reduce(counts)
            total, squares, refused = counts
            unequal = (squares * self.count - total.square()).abs() > 0.5
            if counts.is_cuda:
                self.unequal |= unequal
            elif error is None and bool(refused):
                error = ValueError(f"{int(refused)} of {self.count} processes refused their batch; see their errors")
            elif error is None and bool(unequal):
                error = ValueError(
                    f"batches of different size in the {self.count} processes ({rows} rows in process {self.rank}, "
                    f"{float(total / self.count):g} on average): draws are shared by equal batches; use a "
                    "DistributedSampler, or drop_last=True"
                )
        if error is not None:
            raise error

    def mean(self, values: Sequence[Tensor], rows: int) -> list[Tensor]:
        """The means over all processes of values that are means over `rows` rows in each, in one exchange.

        Every process has to call it, with tensors of the same shapes; one that has no rows counts for nothing.
        """
        if self.alone:
            return list(values)
        # Weighted by selection, not by a product: a process without rows may hold anything.
        parts = [value.flatten() * rows if rows else torch.zeros_like(value).flatten() for value in values]
        count = values[0].new_full((1,), float(rows))  # made on the device
        packed = torch.cat([part.to(torch.float32) for part in (*parts, count)])
        dist.all_reduce(packed)
        total = packed[-1].clamp(min=1)
        sums = torch.split(packed[:-1], [value.numel() for value in values])
        return [(part / total).view_as(value).to(value.dtype) for part, value in zip(sums, values, strict=True)]
