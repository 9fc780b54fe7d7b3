"""Multi-process training: a thin layer over accelerate.

Started by `accelerate launch` or `torchrun`, all processes run the same program. Each draws the same global batch and
makes the random views of the whole of it; `local_rows` then selects the rows that this process trains on. The result
therefore does not depend on the number of processes. (Exceptions: on CPUs BatchNorm normalises each process's own rows
and the running statistics of rank 0 are kept; on several GPUs it becomes SyncBatchNorm. Dropout draws the same masks in
every process.)

| function | one process | several processes |
|---|---|---|
| `local_rows(rows)` | all rows | the rows of this process |
| `any_process(flag)` | the flag | whether the flag is set in any process |
| `all_reduce_mean(values)` | the values | mean over the processes |
| `all_gather(value)` | a list of one value | the values of all processes |
| `barrier()` | no-op | blocks until all processes arrive |
| `rank()`, `world_size()` | 0, 1 | rank and number of processes |

Outside `distributed_training` they behave as in one process, even if torch.distributed is initialised: a program may
let a single process train by itself.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from experiments.training.loop import TrainerSettings

#: Timeout of collectives: another process may be evaluating or reading data.
TIMEOUT = timedelta(days=1)
_WORKING, _DONE, _STOPPED = 0, 1, 2


@dataclass(frozen=True)
class _Group:
    accelerator: Accelerator
    rank: int
    world_size: int
    #: Process group for flags and numbers on the host; None: the default group. A separate gloo group where the default
    #: one is NCCL, so that a reduction does not synchronise with the GPU.
    host: dist.ProcessGroup | None


_group: _Group | None = None
_host: dist.ProcessGroup | None = None


@contextmanager
def distributed_training(settings: TrainerSettings, device: torch.device) -> Iterator[Accelerator]:
    """Train one model jointly with all processes of this program; yields the accelerator.

    Args:
        settings: precision and number of micro-batches.
        device: device type to train on; with several processes each gets its own GPU, `accelerator.device`.

    Raises:
        ValueError: float16 on a CPU.
    """
    global _group
    if settings.precision == "fp16" and device.type == "cpu":
        raise ValueError("trainer.precision=fp16 on a CPU: expected bf16 or no; fp16 requires device=cuda")
    # accelerate's state is global to the process; that of an earlier run may have another precision.
    AcceleratorState._reset_state(reset_partial_state=not dist.is_initialized())
    GradientState._reset_state()
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        gradient_accumulation_steps=settings.accumulate,
        cpu=device.type == "cpu",
        device_placement=False,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
    )
    _group = _Group(accelerator, accelerator.process_index, accelerator.num_processes, _host_group())
    try:
        yield accelerator
        barrier()  # files written by rank 0 are visible to all
    finally:
        _group = None


def _host_group() -> dist.ProcessGroup | None:
    global _host
    if dist.is_initialized() and dist.get_backend() != "gloo" and _host is None:
        _host = dist.new_group(backend="gloo", timeout=TIMEOUT)
    if dist.is_initialized():
        atexit.unregister(_destroy)
        atexit.register(_destroy)
    return _host


def _destroy() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def accelerator() -> Accelerator | None:
    """Return the accelerator of `distributed_training`, or None outside it."""
    return None if _group is None else _group.accelerator


def rank() -> int:
    """Return the rank of this process, from 0. Rank 0 writes the files."""
    return 0 if _group is None else _group.rank


def world_size() -> int:
    """Return the number of processes that train together."""
    return 1 if _group is None else _group.world_size


def check_batch_size(batch_size: int, settings: TrainerSettings) -> None:
    """Raise if the global batch can't be split equally over processes and micro-batches.

    Args:
        batch_size: number of images of the global batch.
        settings: number of micro-batches.

    Raises:
        ValueError: the error names a batch size that fits.
    """
    divisor = world_size() * settings.accumulate
    if batch_size % divisor:
        raise ValueError(
            f"batch_size={batch_size} for {world_size()} processes with trainer.accumulate={settings.accumulate}: "
            f"expected a multiple of {divisor}, such as batch_size={max(1, round(batch_size / divisor)) * divisor}"
        )


def local_rows(rows: Tensor) -> Tensor:
    """Return this process's contiguous slice of `rows`, `(N, ...)`, made for the global batch.

    Raises:
        ValueError: N is not divisible by the number of processes.
    """
    if world_size() == 1:
        return rows
    if len(rows) % world_size():
        raise ValueError(f"{len(rows)} rows for {world_size()} processes: expected a multiple of {world_size()} rows")
    count = len(rows) // world_size()
    return rows[rank() * count : (rank() + 1) * count]


def all_reduce_mean(values: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each value over the processes, which must have the same keys. Collective."""
    if world_size() == 1 or _group is None:
        return dict(values)
    packed = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(packed, group=_group.host)
    return dict(zip(values, (packed / world_size()).tolist(), strict=True))


def all_gather(value: Any) -> list[Any]:
    """Return the values of all processes by rank; any picklable object, tensors on the CPU. Collective."""
    if world_size() == 1 or _group is None:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value, group=_group.host)
    return found


def any_process(flag: bool) -> bool:
    """Return whether the flag (such as a requested stop) is set in any process. Collective."""
    return _all_reduce_max(_STOPPED if flag else _WORKING) == _STOPPED


def barrier() -> None:
    """Block until all processes have reached this call."""
    _all_reduce_max(_WORKING)


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let rank 0 execute the block before the other processes do, so that they find the files it has made."""
    if rank() != 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def signal_done() -> None:
    """Release the processes that are in `wait_until_done`."""
    if _all_reduce_max(_DONE) == _STOPPED:
        raise KeyboardInterrupt


def wait_until_done(stop_requested: Callable[[], bool]) -> None:
    """Block while rank 0 works alone; it calls `any_process` in each step and `signal_done` at the end.

    Args:
        stop_requested: whether a stop was requested of this process; passed on to rank 0.

    Raises:
        KeyboardInterrupt: a stop was requested of any process.
    """
    while True:
        found = _all_reduce_max(_STOPPED if stop_requested() else _WORKING)
        if found == _STOPPED:
            raise KeyboardInterrupt
        if found == _DONE:
            return


def _all_reduce_max(value: int) -> int:
    if world_size() == 1 or _group is None:
        return value
    packed = torch.tensor([value])
    dist.all_reduce(packed, dist.ReduceOp.MAX, group=_group.host)
    return int(packed)


def prepare_model(student: nn.Module) -> nn.Module:
    """Return `student` prepared for joint training, in DistributedDataParallel if there are several processes."""
    if _group is None:
        return student
    if _group.world_size > 1 and _group.accelerator.device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
    network: nn.Module = _group.accelerator.prepare_model(student)
    # accelerate patches the model's own forward for mixed precision; only training uses autocast, evaluation does not.
    _group.accelerator.unwrap_model(network, keep_fp32_wrapper=False)
    return network


def broadcast_buffers(student: nn.Module) -> None:
    """Copy the buffers of rank 0 (BatchNorm statistics) to all processes, so that all evaluate the same network."""
    if world_size() > 1:
        for buffer in student.buffers():
            dist.broadcast(buffer, 0)
