"""Two processes reduce, gather, wait for each other and train one model; a single process does all of it by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import PartialState
from accelerate.state import is_initialized
from torch import nn

from experiments.training import distributed
from experiments.training.settings import TrainerSettings

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[3]


def collectives(folder: Path) -> dict[str, Any]:
    """Return what this process, of two, gets from every function."""
    found: dict[str, Any] = {"outside": (distributed.rank(), distributed.world_size())}
    with distributed.distributed_training(TrainerSettings(), CPU) as accelerator:
        me = distributed.rank()
        found["processes"] = me, distributed.world_size()
        found["rows"] = distributed.local_rows(torch.arange(6)).tolist()
        found["means"] = distributed.all_reduce_mean({"a": 1.0 + me, "b": 0.1})
        found["gathered"] = distributed.all_gather({"rank": me, "list": [me]})
        found["flags"] = [distributed.any_process(flag) for flag in (False, me == 1, True)]
        with distributed.main_process_first():
            found["files"] = len(list(folder.glob("made")))
            (folder / "made").touch()
        student = nn.Linear(2, 1, bias=False)
        student.register_buffer("statistic", torch.zeros(1))
        network = distributed.prepare_model(student)
        rows = distributed.local_rows(torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 2.0], [7.0, 2.0]]))
        accelerator.backward(network(rows).mean())
        found["wrapped"], found["gradient"] = type(network).__name__, student.weight.grad[0].tolist()
        student.statistic.fill_(5 + me)
        distributed.broadcast_buffers(student)
        found["statistic"] = float(student.statistic)
        for size in (6, 7):
            try:
                distributed.check_batch_size(size, TrainerSettings())
            except ValueError as error:
                found["error"] = str(error)
    with distributed.distributed_training(TrainerSettings(precision="bf16"), CPU):  # a second run
        found["again"] = distributed.all_gather(distributed.rank())
    found["afterwards"] = (distributed.rank(), distributed.world_size(), distributed.all_gather("me"))
    return found


@pytest.mark.slow
def test_two_processes_exchange_values(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, __file__, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Warning" not in done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (first["processes"], second["processes"]) == ([0, 2], [1, 2])
    assert (first["rows"], second["rows"]) == ([0, 1, 2], [3, 4, 5])
    assert (first["files"], second["files"]) == (0, 1)
    for found in (first, second):
        assert found["outside"] == [0, 1]
        assert found["means"] == {"a": 1.5, "b": 0.1}
        assert found["gathered"] == [{"rank": 0, "list": [0]}, {"rank": 1, "list": [1]}]
        assert found["flags"] == [False, True, True]
        assert found["wrapped"] == "DistributedDataParallel"
        assert found["gradient"] == [4.0, 1.0]  # of the mean over all rows
        assert found["statistic"] == 5  # of rank 0
        assert "batch_size=7 for 2 processes" in found["error"]
        assert "such as batch_size=8" in found["error"]
        assert found["again"] == [0, 1]
        assert found["afterwards"] == [0, 1, ["me"]]


def test_one_process_has_all_rows() -> None:
    rows = torch.arange(3)
    with distributed.distributed_training(TrainerSettings(), CPU):
        assert distributed.local_rows(rows).tolist() == [0, 1, 2]
        assert (distributed.any_process(True), distributed.any_process(False)) == (True, False)
        assert distributed.all_reduce_mean({"a": 0.1}) == {"a": 0.1}
        assert distributed.all_gather([1]) == [[1]]
        distributed.barrier()
        with distributed.main_process_first():
            assert (distributed.rank(), distributed.world_size()) == (0, 1)


def fail() -> None:
    with distributed.distributed_training(TrainerSettings(precision="bf16"), CPU) as accelerator:
        assert accelerator.mixed_precision == "bf16"
        raise KeyError("left")


def test_a_failed_run_leaves_no_state() -> None:
    PartialState()  # of other work in this process
    with pytest.raises(KeyError, match="left"):
        fail()
    assert not is_initialized()
    with distributed.distributed_training(TrainerSettings(), CPU) as accelerator:
        assert accelerator.mixed_precision == "no"


def test_evaluation_is_not_in_reduced_precision() -> None:
    network = nn.Linear(4, 2)
    images = torch.randn(3, 4)
    expected = network(images)
    with distributed.distributed_training(TrainerSettings(precision="bf16"), CPU) as accelerator:
        prepared = distributed.prepare_model(network)
        assert torch.equal(prepared(images), expected)
        with accelerator.autocast():
            assert prepared(images).dtype == torch.bfloat16


def test_errors_name_what_fits() -> None:
    distributed.check_batch_size(12, TrainerSettings(accumulate=3))
    with pytest.raises(ValueError, match=r"batch_size=13 .*multiple of 3, such as batch_size=12"):
        distributed.check_batch_size(13, TrainerSettings(accumulate=3))
    fp16 = distributed.distributed_training(TrainerSettings(precision="fp16"), CPU)
    with pytest.raises(ValueError, match="expected bf16 or no"), fp16:
        pass
    with pytest.raises(ValueError, match="expected one of no, bf16, fp16"):
        TrainerSettings(precision="double")
    with pytest.raises(ValueError, match=r"trainer\.ema=1"):
        TrainerSettings(ema=1.0)
    assert TrainerSettings(precision=False) == TrainerSettings()  # type: ignore[arg-type]  # YAML's no


if __name__ == "__main__":
    torch.set_num_threads(1)
    (Path(sys.argv[1]) / f"{os.environ['RANK']}.json").write_text(json.dumps(collectives(Path(sys.argv[1]))))
