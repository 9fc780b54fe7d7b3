"""The process group of a distributed run: checks across processes, and means over all of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from hard_aug.utils.host_copy import HostCopy


def placement() -> tuple[int, int]:
    """Return the rank of this process and the number of processes, (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class ProcessGroup:
    """The default process group as it is at construction, or a single process.

    Args:
        device: of the tensors that are exchanged.

    Attributes:
        rank: of this process.
        count: number of processes.
        unequal: a bool scalar on the device: batches of different size were met.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.count = placement()
        self.unequal = torch.zeros((), dtype=torch.bool, device=device)
        self._unequal_on_host, self._warns = HostCopy(self.unequal), True

    @property
    def is_single(self) -> bool:
        """Whether there is one process only."""
        return self.count == 1

    def check_unchanged(self) -> None:
        """Raise `ValueError` unless the process group is that of construction."""
        rank, count = placement()
        if (rank, count) != (self.rank, self.count):
            raise ValueError(
                f"created in process {self.rank} of {self.count} and called in process {rank} of {count}: create the "
                "augmenter after torch.distributed.init_process_group(), or each process learns a policy of its own"
            )

    def validate_batch(self, rows: int, error: Exception | None) -> None:
        """Raise `error`, if this process has one, and else `ValueError` if its call does not fit the others'.

        Every process has to call it. On a GPU batches of different size are noted in `unequal` instead, and the error
        of another process goes unnoticed, because reading the value would synchronise with the device.

        Args:
            rows: size of this process's batch.
            error: why this process cannot take part; None: it can.
        """
        self.check_unchanged()
        if error is None and rows == 0 and not self.is_single:
            error = ValueError(
                f"an empty batch in process {self.rank} of {self.count}: the others would wait for it; use a "
                "DistributedSampler, or drop_last=True"
            )
        if not self.is_single:
            # Created on the device: a tensor made of a list would be copied from the host, which synchronises.
            device = self.unequal.device
            counts = torch.cat(
                [
                    torch.full((1,), float(c), dtype=torch.float32, device=device)
                    for c in (rows, rows**2, error is not None)
                ]
            )
            dist.all_reduce(counts)
            total, squares, refused = counts
            unequal = (squares * self.count - total.square()).abs() > 0.5
            if counts.is_cuda:
                self.unequal |= unequal
                if self._warns and self._unequal_on_host():
                    self._warns = False
                    warnings.warn(
                        f"earlier batches were of different size in the {self.count} processes, whose draws and means "
                        "are those of equal ones; use a DistributedSampler, or drop_last=True",
                        stacklevel=4,
                    )
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
        """Average over all processes, in one exchange, values that are means over `rows` rows in each.

        Every process has to call it, with tensors of the same shapes.
        """
        if self.is_single:
            return list(values)
        parts = [value.flatten() * rows for value in values]
        count = values[0].new_full((1,), float(rows))  # created on the device
        packed = torch.cat([part.to(torch.float32) for part in (*parts, count)])
        dist.all_reduce(packed)
        sums = torch.split(packed[:-1], [value.numel() for value in values])
        return [(part / packed[-1]).view_as(value).to(value.dtype) for part, value in zip(sums, values, strict=True)]

    def mean_to_host(self, values: Tensor) -> float:
        """Return the mean of `(B,)` over all processes as a number. Synchronises with the device."""
        (mean,) = self.mean([values.detach().mean()], len(values))
        return float(mean)


@contextmanager
def warn_unless_averaged(student: nn.Module) -> Iterator[None]:
    """Warn at exit if several processes train a student whose gradients nothing averages, as far as PyTorch knows.

    Args:
        student: what runs inside the block, with its wrappers.
    """
    _, count = placement()
    if count == 1 or not any(parameter.requires_grad for parameter in student.parameters()):
        yield
        return
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    ddp = nn.parallel.DistributedDataParallel
    found: list[nn.Module] = []

    def look(module: nn.Module, _: object = None) -> None:
        if isinstance(module, ddp | FullyShardedDataParallel | FSDPModule):
            found.append(module)

    for module in student.modules():
        look(module)
    if getattr(ddp, "_active_ddp_module", None) is not None:  # Lightning's is around the whole training step
        found.append(student)
    # A wrapper may be no submodule, but something that the student's forward looks up.
    hook = None if found else register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()
    if not found:
        warnings.warn(
            f"{count} processes train, and neither DistributedDataParallel nor FSDP averages the gradients of this "
            "student: the students of the processes drift apart. Pass the wrapped one, "
            "HardAugmenter(student=DistributedDataParallel(student), ...), unless you average them yourself",
            stacklevel=7,  # the loop that calls `hard.loss()`
        )
