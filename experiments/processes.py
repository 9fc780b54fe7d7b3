"""Processes: what several of them do together in one training; a thin layer over accelerate.

Started by `accelerate launch` or `torchrun`, all processes run the same program. Each draws the same global batch and
makes the random views of the whole of it; `local` then gives it the rows that it trains on. So what is learned does not
depend on how many processes there are. (BatchNorm is the exception: on CPUs each process normalises by its own rows,
and the first one's running statistics are kept; on several GPUs it becomes SyncBatchNorm. Dropout draws the same masks
in every process.)

| function | alone | of several |
|---|---|---|
| `local(rows)` | all rows | this process's |
| `agreed(flag)` | the flag | whether any process raises it |
| `mean(values)` | the values | their means |
| `gathered(value)` | a list of it | a list of theirs |
| `wait()` | nothing | until all are here |
| `rank()`, `count()` | 0, 1 | |

They count one process outside `together`, also where torch.distributed runs: a program may let one of its processes
train by itself.
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

from experiments.training import Settings

#: How long a process waits for another, which may be evaluating or reading data.
PATIENCE = timedelta(days=1)
_WORKS, _DONE, _STOPS = 0, 1, 2


@dataclass(frozen=True)
class _Team:
    accelerator: Accelerator
    rank: int
    count: int
    #: For flags and numbers on the host; None: the default group. One of its own where that is the GPUs': asking it
    #: does not wait for their work.
    host: dist.ProcessGroup | None


_team: _Team | None = None
_host: dist.ProcessGroup | None = None


@contextmanager
def together(settings: Settings, device: torch.device) -> Iterator[Accelerator]:
    """Within it, the processes that this program was started in train as one.

    Args:
        settings: precision and micro-batches.
        device: the kind that is trained on; of several processes each gets a GPU of its own, `accelerator.device`.

    Raises:
        ValueError: float16 on a CPU.
    """
    global _team
    if settings.precision == "fp16" and device.type == "cpu":
        raise ValueError("trainer.precision=fp16 on a CPU: wanted bf16 or no there; fp16 is for device=cuda")
    # accelerate's state is the process's; that of a former run may have another precision.
    AcceleratorState._reset_state(reset_partial_state=not dist.is_initialized())
    GradientState._reset_state()
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        gradient_accumulation_steps=settings.accumulate,
        cpu=device.type == "cpu",
        device_placement=False,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    _team = _Team(accelerator, accelerator.process_index, accelerator.num_processes, _host_group())
    try:
        yield accelerator
        wait()  # what the first one has written is there for all
    finally:
        _team = None


def _host_group() -> dist.ProcessGroup | None:
    global _host
    if dist.is_initialized() and dist.get_backend() != "gloo" and _host is None:
        _host = dist.new_group(backend="gloo", timeout=PATIENCE)
    if dist.is_initialized():
        atexit.unregister(_leave)
        atexit.register(_leave)
    return _host


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def accelerator() -> Accelerator | None:
    """That of `together`; None outside it."""
    return None if _team is None else _team.accelerator


def rank() -> int:
    """Of this process, from 0. The first one writes the files."""
    return 0 if _team is None else _team.rank


def count() -> int:
    """How many processes train together."""
    return 1 if _team is None else _team.count


def check_batch(batch_size: int, settings: Settings) -> None:
    """Refuse a global batch that can't be shared equally.

    Raises:
        ValueError: names what would fit.
    """
    share = count() * settings.accumulate
    if batch_size % share:
        raise ValueError(
            f"batch_size={batch_size} for {count()} processes with trainer.accumulate={settings.accumulate}: wanted a "
            f"multiple of {share}, such as batch_size={max(1, round(batch_size / share)) * share}"
        )


def local(rows: Tensor) -> Tensor:
    """This process's rows of what was made for the global batch, `(N, ...)`: a contiguous share, by rank.

    Raises:
        ValueError: N is not divisible by the number of processes.
    """
    if count() == 1:
        return rows
    if len(rows) % count():
        raise ValueError(f"{len(rows)} rows for {count()} processes: wanted a multiple, so that all have equal shares")
    share = len(rows) // count()
    return rows[rank() * share : (rank() + 1) * share]


def mean(values: Mapping[str, float]) -> dict[str, float]:
    """The means over the processes, each having the same names. Every process has to call it."""
    if count() == 1 or _team is None:
        return dict(values)
    packed = torch.tensor(list(values.values()), dtype=torch.float64)
    dist.all_reduce(packed, group=_team.host)
    return dict(zip(values, (packed / count()).tolist(), strict=True))


def gathered(value: Any) -> list[Any]:
    """What every process gives, by rank; anything that can be pickled, tensors on the CPU. Every one has to call it."""
    if count() == 1 or _team is None:
        return [value]
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value, group=_team.host)
    return found


def agreed(flag: bool) -> bool:
    """Whether any process raises the flag, such as that of a stop. Every process has to call it."""
    return _exchanged(_STOPS if flag else _WORKS) == _STOPS


def wait() -> None:
    """Until all processes are here."""
    _exchanged(_WORKS)


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through the block before the others do, so that they find what it has made."""
    if rank() != 0:
        wait()
    yield
    if rank() == 0:
        wait()


def done() -> None:
    """Let the others go on that are in `until_done`."""
    if _exchanged(_DONE) == _STOPS:
        raise KeyboardInterrupt


def until_done(stops: Callable[[], bool]) -> None:
    """Wait while the first process works by itself, which calls `agreed` in each step and `done` at the end.

    Args:
        stops: whether a stop was asked of this process; the first one hears of it.

    Raises:
        KeyboardInterrupt: a stop was asked of any process.
    """
    while True:
        found = _exchanged(_STOPS if stops() else _WORKS)
        if found == _STOPS:
            raise KeyboardInterrupt
        if found == _DONE:
            return


def _exchanged(value: int) -> int:
    if count() == 1 or _team is None:
        return value
    packed = torch.tensor([value])
    dist.all_reduce(packed, dist.ReduceOp.MAX, group=_team.host)
    return int(packed)


def prepared(student: nn.Module) -> nn.Module:
    """`student`, ready for a training of all processes: DistributedDataParallel around it if there are several."""
    if _team is None:
        return student
    if _team.count > 1 and _team.accelerator.device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
    network: nn.Module = _team.accelerator.prepare_model(student)
    # accelerate makes the forward itself one of lower precision; the training is, and evaluations are not to be.
    _team.accelerator.unwrap_model(network, keep_fp32_wrapper=False)
    return network


def share_buffers(student: nn.Module) -> None:
    """Give all processes the first one's buffers, BatchNorm's statistics, so that all evaluate the same network."""
    if count() > 1:
        for buffer in student.buffers():
            dist.broadcast(buffer, 0)
