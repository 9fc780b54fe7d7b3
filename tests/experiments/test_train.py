"""The command: single runs, sweeps, selected settings, stops and kills, and two processes of one run."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_module
from hydra.core.plugins import Plugins

from experiments import report, train
from experiments.runs import student as runs
from experiments.runs.status import find
from experiments.runs.student import run
from tests.helpers.engine_parts import SMALL, small_config, use_few_digits
from tests.helpers.stops import stopping_at

Captured = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module", autouse=True)
def _few_digits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_few_digits(monkeypatch)
        yield


def words(folder: Path, *overrides: str) -> list[str]:
    small = [
        one for one in (*SMALL, "logger=[csv]") if one.split("=")[0] not in {two.split("=")[0] for two in overrides}
    ]
    return [*overrides, *small, f"hydra.sweep.dir={folder}/runs", f"teacher_cache={folder}/teachers"]


def called(folder: Path, capfd: Captured, *overrides: str) -> tuple[int, str, str]:
    """Call the command in this process; return the exit status, stdout and stderr."""
    root, status = logging.getLogger(), 0
    handlers, level = root.handlers[:], root.level
    capfd.readouterr()
    try:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(sys, "argv", ["train.py", *words(folder, *overrides)])
            train.main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:  # Hydra replaces them
        root.handlers[:], root.level = handlers, level
    return status, *capfd.readouterr()


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((folder / "runs").glob("*/metrics.json"))]


def states(folder: Path) -> list[str]:
    return sorted(one["state"] for one in find([folder / "runs"]).values())


def test_a_run_is_printed_and_not_repeated(tmp_path: Path, capfd: Captured) -> None:
    status, shown, _ = called(tmp_path, capfd, "method=kd", "seed=3")
    assert status == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("kd-seed3-")
    assert str(folder) in shown
    accuracy = records(tmp_path)[0]["student"]["accuracy"]
    assert f"{100 * accuracy['shifted']:.1f}" in shown
    assert states(tmp_path) == ["finished"]
    names = {"config.yaml", "metrics.json", "status.json", "student.pt", "train.log", "curves.csv"}
    assert names <= {path.name for path in folder.iterdir()}
    before = (folder / "metrics.json").stat().st_mtime_ns
    status, again, _ = called(tmp_path, capfd, "method=kd", "seed=3", "threads=2")
    assert status == 0
    assert again.split("accuracy in")[1] == shown.split("accuracy in")[1]
    assert (folder / "metrics.json").stat().st_mtime_ns == before


def test_a_stopped_run_is_resumed_by_the_same_command(
    tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runs, "defer_signals", stopping_at(4))
        status, _, lines = called(tmp_path, capfd, "method=kd")
    (folder,) = (tmp_path / "runs").iterdir()
    assert (status, states(tmp_path)) == (130, ["stopped"])
    assert lines.splitlines()[-1] == f"stopped; the same command resumes the run in {folder}"
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["loop"]["step"] == 3
    status, _, _ = called(tmp_path, capfd, "method=kd")
    assert (status, states(tmp_path)) == (0, ["finished"])
    assert "resumed from step 3 of 6" in (folder / "train.log").read_text()


@pytest.mark.slow
def test_combinations_that_the_library_refuses_are_skipped_in_a_sweep(tmp_path: Path, capfd: Captured) -> None:
    parts = ["schedule@augmenter.schedule=threshold"]
    sweep = "objective@augmenter.objective=confidence_margin,kl"
    status, shown, lines = called(tmp_path, capfd, "-m", *parts, sweep)
    assert status == 0
    assert "skipped: Threshold compares with multiples of the objective" in shown + lines
    assert [one["config"]["method"]["augmenter"]["objective"]["_target_"] for one in records(tmp_path)] == [
        "hard_aug.objectives.KL"
    ]
    status, _, lines = called(tmp_path, capfd, *parts, "objective@augmenter.objective=confidence_margin")
    assert status == 2
    assert lines.splitlines()[-1].startswith("error: Threshold compares")


@pytest.mark.slow
def test_settings_are_selected_by_a_report(tmp_path: Path, capfd: Captured) -> None:
    """Two trials of two methods on one seed; then the selected ones on another."""
    rates, scales = "[['learning_rate=1e-9'],['learning_rate=0.01']]", "[['method.scale=0.5'],['method.scale=1.0']]"
    trials = f"trials={{supervised:{rates},random:{scales}}}"
    base = ["-m", trials, "method=supervised,random", "steps=40"]
    assert called(tmp_path, capfd, *base, "trial=0,1")[0] == 0
    tried = records(tmp_path)
    assert len(tried) == 4
    assert len({json.dumps(one["group"]) for one in tried}) == 1
    file = tmp_path / "settings.yaml"
    report.main([str(tmp_path / "runs"), "--select", str(file)])
    selected = yaml.safe_load(file.read_text())
    for method, entry in selected.items():
        found = {one["settings"][0]: one["student"]["validation"]["main"] for one in tried if one["method"] == method}
        assert found[entry["settings"][0]] == max(found.values())
        assert entry["trials"] == len(found) == 2
    status, _, errors = called(tmp_path, capfd, *base[:1], *base[2:], f"settings_from={file}", "seed=1")
    assert status == 0, errors
    chosen = {one["method"]: one for one in records(tmp_path) if one["seed"] == 1}
    assert {method: one["settings"] for method, one in chosen.items()} == {
        method: entry["settings"] for method, entry in selected.items()
    }
    assert {one["trials"] for one in chosen.values()} == {2}
    assert chosen["random"]["config"]["method"]["scale"] == float(selected["random"]["settings"][0].split("=")[1])
    report.main([str(tmp_path / "runs"), "--markdown"])
    assert "| supervised |" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("launcher", "override"),
    [
        ("joblib", "hydra.launcher.n_jobs=2"),
        ("submitit_local", "hydra.launcher.timeout_min=30"),
        ("submitit_slurm", "hydra.launcher.partition=gpu"),
        ("ray", "hydra.launcher.ray.init.num_cpus=1"),
    ],
)
def test_launchers_are_instantiated(launcher: str, override: str) -> None:
    if launcher == "ray":
        pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="the extra ray, which wants another cloudpickle")
    with initialize_config_module("experiments.conf", version_base="1.3"):
        config = compose("train", [f"hydra/launcher={launcher}", override], return_hydra_config=True)
    made = Plugins.instance()._instantiate(config.hydra.launcher)
    assert launcher.removeprefix("submitit_") in type(made).__name__.lower()


def started(line: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("w") as output:
        return subprocess.Popen(
            line, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent, start_new_session=True
        )


def until(there: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + 500
    while not there():
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < limit, log.read_text()[-4000:]
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_sweep_is_resumed_and_goes_on_after_a_failing_run(tmp_path: Path) -> None:
    """Killed in its second run, and resumed by two processes; the last run's loss is not finite."""
    sweep = ["steps=120", "log_every=20", "learning_rate=0.001,0.002,1e30"]
    line = [sys.executable, "-m", "experiments.train", *words(tmp_path, "-m", "method=kd", *sweep)]
    process = started(line, tmp_path / "log")
    try:
        until(lambda: states(tmp_path) == ["finished", "running"], process, tmp_path / "log")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (done,) = (tmp_path / "runs").glob("*/metrics.json")
    before = done.stat().st_mtime_ns
    again = subprocess.run(
        [*line, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        env=ENVIRONMENT,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert again.returncode == 1, again.stdout + again.stderr
    assert done.stat().st_mtime_ns == before
    assert states(tmp_path) == ["failed", "finished", "finished"]
    (failed,) = [folder for folder, one in find([tmp_path / "runs"]).items() if one["state"] == "failed"]
    assert f"failed: {failed}: " in again.stderr
    assert "the loss is nan" in again.stderr
    assert "Traceback" in (failed / "train.log").read_text()


#: A student whose result does not depend on the number of processes: no dropout, no BatchNorm, and each step a policy
#: update on the whole batch.
TWO = (
    "student._target_=tests.helpers.engine_parts.PlainStudent", "augmenter.schedule.fraction=1",
    "augmenter.schedule.every=2", "steps=12", "batch_size=32", "seed=2", "logger=[csv,tensorboard]",
)  # fmt: skip


def launched(by: str) -> list[str]:
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
def test_two_processes_compute_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    line = [*launched("accelerate"), "experiments.train", *words(tmp_path / "two", *TWO)]
    line += ["hydra.mode=MULTIRUN", "method=random,hard"]
    done = subprocess.run(line, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    for method in ("random", "hard"):
        one = tmp_path / "one" / method
        run(small_config(tmp_path / "one", *TWO, f"method={method}"), one, quiet=True)
        (two,) = (tmp_path / "two" / "runs").glob(f"{method}-*")
        ours, theirs = (torch.load(folder / "student.pt", weights_only=True)["model"] for folder in (one, two))
        differences = [float((value - theirs[name]).abs().max()) for name, value in ours.items()]
        assert 0 < max(differences) < 1e-6  # bit-identical results would be those of a single process
        ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (one, two))
        for key in ("evaluations", "policy_updates", "steps", "teacher_consistency"):
            assert ours["student"].get(key) == pytest.approx(theirs["student"].get(key), abs=1e-4)
        assert len(list((two / "tensorboard").rglob("events.*"))) == 1  # by rank 0 only
        ours, theirs = ((folder / "curves.csv").read_text().splitlines()[1:] for folder in (one, two))
        for a, b in zip(ours, theirs, strict=True):
            assert a.split(",")[:2] == b.split(",")[:2]
            assert float(a.split(",")[2]) == pytest.approx(float(b.split(",")[2]), rel=1e-4, abs=1e-6)
    assert (two / "gallery.png").is_file()


def workers(process: subprocess.Popen[bytes]) -> list[int]:
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


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the launcher's children in /proc")
@pytest.mark.parametrize(("during", "by"), [("teacher", "torchrun"), ("student", "accelerate")])
def test_a_stop_of_the_second_process_stops_both_and_saves_the_state(tmp_path: Path, during: str, by: str) -> None:
    long = ["steps=100000", "checkpoint_every=100000", "log_every=1", "method=kd", f"hydra.run.dir={tmp_path}/run"]
    long.append("teacher.steps=100000" if during == "teacher" else "teacher.steps=2")
    log = tmp_path / "log"
    process = started([*launched(by), "experiments.train", *words(tmp_path, *long)], log)
    curves = tmp_path / "run" / "curves.csv"
    try:
        if during == "student":
            until(lambda: curves.is_file() and len(curves.read_text().splitlines()) > 3, process, log)
        else:
            until(lambda: list((tmp_path / "teachers").glob("*.lock")), process, log)
            time.sleep(2)  # the first is training, the second waits
        os.kill(workers(process)[1], signal.SIGTERM)
        process.wait(timeout=1000)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "the same command resumes" in log.read_text()
    if during == "teacher":
        (partial,) = (tmp_path / "teachers").glob("*.partial")
        assert torch.load(partial, weights_only=True)["loop"]["step"] >= 1
        assert not list((tmp_path / "teachers").glob("*.pt"))
    else:
        assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["loop"]["step"] >= 2
