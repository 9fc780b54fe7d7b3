"""Multi-process training on accelerate, started by `accelerate launch` or `torchrun`.

Each process makes the same global batch with its random views and trains on its `local_rows`. The result does not
depend on the number of processes, except for dropout (the same masks in all) and BatchNorm (SyncBatchNorm on GPUs; each
process's own rows and the statistics of rank 0 on CPUs). Outside `distributed_training` all functions behave as in one
process. Flags and numbers are exchanged by gloo on the host, also beside NCCL, without synchronising with the GPU.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState, is_initialized
from accelerate.utils import InitProcessGroupKwargs, broadcast, gather_object, reduce
from torch import Tensor, nn

from experiments.training.settings import TrainerSettings


@contextmanager
def distributed_training(settings: TrainerSettings, device: torch.device) -> Iterator[Accelerator]:
    """Yield the accelerator of a joint training by all processes; each has its own GPU, `accelerator.device`."""
    if settings.precision == "fp16" and device.type == "cpu":
        raise ValueError("trainer.precision=fp16 on a CPU: expected bf16 or no; fp16 requires device=cuda")
    _reset()  # an earlier accelerator of this process may have had another precision
    backend = "cuda:nccl,cpu:gloo" if device.type == "cuda" and "LOCAL_RANK" in os.environ else "nccl"  # its default
    joined = dist.is_initialized()
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        gradient_accumulation_steps=settings.accumulate,
        cpu=device.type == "cpu",
        device_placement=False,
        kwargs_handlers=[InitProcessGroupKwargs(backend, timeout=timedelta(days=1))],  # others may wait for rank 0
    )
    if dist.is_initialized() and not joined:
        atexit.register(dist.destroy_process_group)  # after the next one, which frees models that keep the group alive:
        atexit.register(gc.collect)  # its threads abort an interpreter that ends before them
    try:
        yield accelerator
        barrier()  # files written by rank 0 are visible to all
    finally:
        _reset()


def _reset() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def rank() -> int:
    """Return the rank of this process, from 0. Rank 0 writes the files."""
    return PartialState().process_index if is_initialized() else 0


def world_size() -> int:
    """Return the number of processes that train together."""
    return PartialState().num_processes if is_initialized() else 1


def check_batch_size(batch_size: int, settings: TrainerSettings) -> None:
    """Raise ValueError if a global batch of `batch_size` can't be split equally over processes and micro-batches."""
    if batch_size < 1 or batch_size % (divisor := world_size() * settings.accumulate):
        raise ValueError(
            f"batch_size={batch_size} for {world_size()} processes with trainer.accumulate={settings.accumulate}: "
            f"expected a multiple of {divisor}, such as batch_size={max(1, round(batch_size / divisor)) * divisor}"
        )


def local_rows(rows: Tensor) -> Tensor:
    """Return this process's slice of `rows`, `(N, ...)`; raises ValueError if the processes can't share N equally."""
    if len(rows) % world_size():
        raise ValueError(f"{len(rows)} rows for {world_size()} processes: expected a multiple of {world_size()} rows")
    return rows if world_size() == 1 else rows.chunk(world_size())[rank()]


def all_reduce_mean(values: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each value over the processes, which must have the same keys. Collective."""
    packed = torch.tensor(list(values.values()), dtype=torch.float64)
    return dict(zip(values, (packed if world_size() == 1 else reduce(packed, "mean")).tolist(), strict=True))


def all_gather(value: Any) -> list[Any]:
    """Return the values of all processes by rank; any picklable object, tensors on the CPU. Collective."""
    return [value] if world_size() == 1 else gather_object([value])


def any_process(flag: bool) -> bool:
    """Return whether the flag (such as a requested stop) is set in any process. Collective."""
    return flag if world_size() == 1 else bool(reduce(torch.tensor(int(flag)), "max"))


def barrier() -> None:
    """Block until all processes have reached this call."""
    any_process(False)  # accelerate's wait_for_everyone would need a GPU for each process even with device=cpu


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let rank 0 execute the block before the other processes do, so that they find the files it has made."""
    if rank() != 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def prepare_model(student: nn.Module) -> nn.Module:
    """Return `student`, in DistributedDataParallel if there are several processes."""
    if world_size() == 1:
        return student
    device = PartialState().device
    if device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
    # Not accelerate's prepare_model, which patches the model's forward for mixed precision: evaluation doesn't use it.
    return nn.parallel.DistributedDataParallel(student, device_ids=[device.index] if device.type == "cuda" else None)


def broadcast_buffers(student: nn.Module) -> None:
    """Copy the buffers of rank 0 (BatchNorm statistics) to all processes, so that all evaluate the same network."""
    if world_size() > 1:
        broadcast(list(student.buffers()))
