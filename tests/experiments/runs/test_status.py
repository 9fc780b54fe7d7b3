"""`status.json` of runs that finish, fail, are stopped, killed, or started twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from experiments.configuration.command import Interrupted, JobFailed, run_lock
from experiments.runs.status import StatusCallback, find, read_status
from tests.experiments.configuration.app import app

ROOT = Path(__file__).parents[3]
Captured = pytest.CaptureFixture[str]


def test_a_finished_run(tmp_path: Path, capfd: Captured) -> None:
    assert app.call(tmp_path, capfd, "seed=3", "steps=20") == (0, [])
    ((folder, found),) = find([tmp_path, tmp_path / "nothing"]).items()
    assert found["state"] == "finished"
    assert found["overrides"] == ["seed=3", "steps=20"]
    assert (found["error"], found["pid"]) == (None, os.getpid())
    assert datetime.fromisoformat(found["started"]) <= datetime.fromisoformat(found["ended"])
    assert folder.name.startswith("hard-seed3-")
    assert not run_lock(folder).is_locked


def test_a_run_that_failed_can_be_repeated(tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "check_integer", lambda **values: {}["bug"])
    assert app.call(tmp_path, capfd)[0] == 1
    (found,) = find([tmp_path]).values()
    assert found["error"] == {"type": "KeyError", "message": "KeyError: 'bug'", "discard": False}
    monkeypatch.undo()
    assert app.call(tmp_path, capfd) == (0, [])
    (found,) = find([tmp_path]).values()
    assert (found["state"], found["error"]) == ("finished", None)


def test_a_usage_error_keeps_an_earlier_run(tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    assert app.call(tmp_path, capfd) == (0, [])

    def missing(**values: int) -> None:
        raise FileNotFoundError("no such file: teacher.pt")

    monkeypatch.setattr(app, "check_integer", missing)
    assert app.call(tmp_path, capfd)[0] == 2
    (found,) = find([tmp_path]).values()
    assert found["state"] == "failed"
    assert len(list(tmp_path.glob("*/work"))) == 1


def test_files_of_others_are_kept(tmp_path: Path, capfd: Captured) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert app.call(tmp_path, capfd, "steps=0", f"hydra.run.dir={tmp_path}/mine")[0] == 2
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


@pytest.mark.slow
def test_a_run_that_executes_cannot_be_started_again_and_a_killed_one_can(tmp_path: Path, capfd: Captured) -> None:
    line = [sys.executable, app.__file__, "what=wait", f"hydra.sweep.dir={tmp_path}"]
    process = subprocess.Popen(line, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    try:
        limit = time.monotonic() + 200
        while not list(tmp_path.glob("*/work")) and time.monotonic() < limit:
            time.sleep(0.05)
        (folder,) = find([tmp_path])
        assert find([tmp_path])[folder]["state"] == "running"
        assert app.call(tmp_path, capfd, "what=wait") == (
            2,
            [f"error: another process is executing this run: {folder}"],
        )
        assert find([tmp_path])[folder]["pid"] == process.pid
    finally:
        process.kill()
        process.wait()
    assert find([tmp_path])[folder]["state"] == "killed"
    assert not run_lock(folder).is_locked


def job(folder: Path) -> Any:
    """Return the configuration of a job, as a callback is given it."""
    folder.mkdir()
    node = {"runtime": {"output_dir": str(folder)}, "overrides": {"task": []}, "output_subdir": ".hydra"}
    return OmegaConf.create({"hydra": {**node, "job": {"name": "app"}, "mode": None}})


def test_only_rank_0_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    config, callback = job(tmp_path / "run"), StatusCallback()
    callback.on_job_start(config)
    callback.on_job_end(config, JobReturn(status=JobStatus.COMPLETED))
    assert not list((tmp_path / "run").iterdir())
    callback.on_job_start(config)
    with pytest.raises(JobFailed):
        callback.on_job_end(config, JobReturn(status=JobStatus.FAILED, _return_value=Interrupted()))
    assert not list((tmp_path / "run").iterdir())


def test_a_full_disk_keeps_the_former_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, callback = job(tmp_path / "run"), StatusCallback()
    callback.on_job_start(config)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):  # Hydra turns it into a warning, and raises the job's own error
        callback.on_job_end(config, JobReturn(status=JobStatus.FAILED, _return_value=KeyError("cause")))
    monkeypatch.undo()
    found = json.loads((tmp_path / "run" / "status.json").read_text())
    assert found["state"] == "running"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"state": "asleep"}', b"{}", b'{"state": "\xff"}'])
def test_invalid_status_files_raise(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "status.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a/status\.json is not a valid run status"):
        find([tmp_path])


def test_a_folder_without_status(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    (tmp_path / "status.json").write_text('{"state": "running"}')
    found = read_status(tmp_path)
    assert found is not None
    assert found["state"] == "killed"  # a copy, without the lock
