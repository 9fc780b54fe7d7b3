"""Two processes compute what one does, stop together, and share a teacher; a full disk keeps the old checkpoint."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module

from experiments.train import run
from experiments.training import checkpoint

#: Rows of one process are shared by two in all but a `fraction`, which each takes of its own.
RUN = [
    "experiments.train", "device=cpu", "students=[kd,random,hard]", "steps=15", "batch_size=32", "teacher.steps=20",
    "teacher.batch_size=32", "seed=2", "log_every=5", "checkpoint_every=7", "threads=1",
    "student._target_=tests.helpers.engine_parts.PlainStudent", "augmenter.schedule.fraction=1",
    "augmenter.schedule.every=2",
]  # fmt: skip
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}


def launched(*, by: str = "accelerate") -> list[str]:
    """`accelerate launch` of two processes, or `torchrun`.

    (With --cpu the former would start a single one; device=cpu is what is wanted.)
    """
    if by == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return [*command, "-m"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        config = compose("train", [*RUN[1:], f"teacher_cache={tmp_path}/one/teachers"])
    run(config, tmp_path / "one" / "run", quiet=True, figures=False)
    command = [*launched(), *RUN, f"hydra.run.dir={tmp_path}/two/run", f"teacher_cache={tmp_path}/two/teachers"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    one, two = (
        torch.load(tmp_path / name / "run" / "checkpoint.pt", weights_only=True)["finished"] for name in ("one", "two")
    )
    assert list(one) == list(two) == ["kd", "random", "hard"]
    moved = False
    for name, finished in one.items():
        for key, value in finished["model"].items():
            difference = float((value - two[name]["model"][key]).abs().max())
            assert difference < 1e-6, (name, key, difference)
            moved |= difference > 0
    assert moved  # bit-identical results would be those of a single process
    metrics = [json.loads((tmp_path / name / "run" / "metrics.json").read_text()) for name in ("one", "two")]
    for row in metrics[0]["students"]:
        ours, theirs = (found["students"][row] for found in metrics)
        assert {k: v for k, v in ours.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}
    folder = tmp_path / "two" / "run"
    assert (folder / "gallery.png").is_file()
    assert len(list((folder / "tensorboard" / "kd").glob("events.*"))) == 1  # by rank 0 only
    ours, theirs = ((tmp_path / name / "run" / "curves" / "kd.csv").read_text() for name in ("one", "two"))
    for a, b in zip(ours.splitlines()[1:], theirs.splitlines()[1:], strict=True):
        assert a.split(",")[:2] == b.split(",")[:2]
        assert float(a.split(",")[2]) == pytest.approx(float(b.split(",")[2]), rel=1e-5)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """Return the processes started by the launcher, sorted by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = []
    for child in children:
        try:
            rank = [v for v in Path(f"/proc/{child}/environ").read_text().split("\0") if v.startswith("RANK=")]
        except OSError:
            continue
        if rank:
            found.append((int(rank[0].removeprefix("RANK=")), int(child)))
    return [pid for _, pid in sorted(found)]


def until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 700
    while not there():
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the launcher's children in /proc")
@pytest.mark.parametrize(("during", "by"), [("teacher", "torchrun"), ("student", "accelerate")])
def test_a_stop_of_the_second_process_stops_both_and_saves_the_state(tmp_path: Path, during: str, by: str) -> None:
    long = ["steps=100000", "checkpoint_every=100000", "log_every=1", "students=[kd]"]
    long.append("teacher.steps=100000" if during == "teacher" else "teacher.steps=2")
    command = [*launched(by=by), *RUN, *long, f"hydra.run.dir={tmp_path}/run", f"teacher_cache={tmp_path}/teachers"]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    curves = tmp_path / "run" / "curves" / "kd.csv"
    try:
        if during == "student":
            until(lambda: curves.is_file() and len(curves.read_text().splitlines()) > 3, process)
        else:
            until(lambda: (tmp_path / "teachers").is_dir(), process)
        os.kill(workers(process)[1], signal.SIGTERM)
        output, _ = process.communicate(timeout=1000)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert output.count("run the same command again to resume") >= 1, output[-4000:]
    if during == "teacher":
        kept = list((tmp_path / "teachers").iterdir())
        assert [path.suffix for path in kept] == [".partial"]
        assert torch.load(kept[0], weights_only=True)["training"]["step"] >= 1
    else:
        state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
        assert state["current"]["training"]["step"] >= 2


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    """In a process that may write files of at most 64 KiB."""
    path = tmp_path / "checkpoint.pt"
    state = {"config": {}, "finished": {}, "current": None}
    checkpoint.save(path, {**state, "weights": torch.zeros(100)})
    former, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not be written .*checkpoint\.pt is unchanged.* free some space"):
            checkpoint.save(path, {**state, "weights": torch.zeros(2**20)})
        with pytest.raises(OSError, match=r"there is no .*new\.pt yet"):
            checkpoint.save(tmp_path / "new.pt", {"weights": torch.zeros(2**20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    assert torch.equal(checkpoint.load(path, {})["weights"], torch.zeros(100))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    with pytest.raises(OSError, match="could not be written"):
        checkpoint.save(tmp_path / "nowhere" / "checkpoint.pt", state)
