"""The file `status.json` in a run's folder, kept by a Hydra callback.

| key | meaning |
|---|---|
| `state` | `running`, `finished`, `failed` or `stopped`; read as `killed` if no process executes a running run |
| `started`, `ended` | UTC, ISO 8601 |
| `overrides` | command-line overrides |
| `error` | type and message of the exception |
| `host`, `pid` | host name and process id |

A run holds the lock `status.lock` in its folder while it executes.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments.configuration.command import (
    Interrupted,
    JobFailed,
    describe,
    first_process,
    is_usage_error,
    run_lock,
)
from experiments.training.files import CONFIG, write_json

NAME = "status.json"
RUNNING, FINISHED, FAILED, STOPPED, KILLED = "running", "finished", "failed", "stopped", "killed"


def now() -> str:
    """Return the current time in UTC, to the microsecond, in a format that sorts chronologically."""
    return datetime.now(UTC).isoformat()


def read_status(folder: Path) -> dict[str, Any] | None:
    """Return the status in a run's folder, or None if there is none; the state of a killed run is `killed`.

    Raises:
        ValueError: the file is not a valid status.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["state"] not in (RUNNING, FINISHED, FAILED, STOPPED):
            raise KeyError(found["state"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a valid run status ({error}); remove it") from error
    if found["state"] == RUNNING and not _is_locked(folder):
        found["state"] = KILLED
    return found


def _is_locked(folder: Path) -> bool:
    lock = run_lock(folder)
    if lock.is_locked or not Path(lock.lock_file).exists():
        return lock.is_locked
    try:
        with lock.acquire(timeout=0):
            return False
    except OSError:  # another process holds it, or the folder is another user's
        return True


def find(folders: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Return the status of every run below `folders`, keyed by the run's folder."""
    paths = sorted({path.parent for folder in folders for path in folder.rglob(NAME)})
    return {path: status for path in paths if (status := read_status(path)) is not None}


class StatusCallback(Callback):
    """Keep `status.json`, remove the folders of configuration errors, and let a multirun go on after a failed job."""

    def __init__(self) -> None:
        self.started = ""
        self.status: dict[str, Any] = {}
        self.lock: FileLock | None = None
        self.created = False

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember when the multirun has started."""
        self.started = now()

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Lock the folder and set the state to `running`, unless another process executes the run."""
        folder = Path(config.hydra.runtime.output_dir)
        self.lock, self.created = None, _names(folder) <= _own_names(config)
        if not first_process():
            return
        with suppress(Timeout):  # then the job raises
            lock = run_lock(folder)
            lock.acquire(timeout=1)
            self.lock = lock
            overrides = OmegaConf.to_container(config.hydra.overrides.task)
            self.status = {"state": RUNNING, "started": now(), "ended": None, "overrides": overrides, "error": None}
            self.status |= {"host": platform.node(), "pid": os.getpid()}
            write_json(folder / NAME, self.status)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Set the final state.

        Raises:
            JobFailed: the job has failed and is not one of a multirun, or it was interrupted.
        """
        folder, multirun = Path(config.hydra.runtime.output_dir), config.hydra.mode == RunMode.MULTIRUN
        error = job_return._return_value if job_return.status is JobStatus.FAILED else None
        if error is not None and is_usage_error(error) and not first_process():
            _wait_for_first_process(folder)  # a launcher kills the others as soon as one process has failed
        stopped = isinstance(error, Interrupted)
        discard = self.lock is not None and self.created and error is not None and is_usage_error(error)
        discard = discard and _names(folder) <= {*_own_names(config), NAME, CONFIG} and folder != Path.cwd()
        if error is not None and not stopped and not discard:
            path, kind = folder / f"{config.hydra.job.name}.log", {"encoding": "utf-8", "errors": "backslashreplace"}
            with suppress(OSError), path.open("a", **kind) as log:
                log.writelines(traceback.format_exception(error))
        if self.lock is not None:
            self.status |= {"state": FINISHED if error is None else STOPPED if stopped else FAILED, "ended": now()}
            if error is not None and not stopped:
                self.status["error"] = {"type": type(error).__name__, "message": describe(error), "discard": discard}
            write_json(folder / NAME, self.status)
            self.lock.release()
        if error is None:
            return
        if discard and not multirun:
            shutil.rmtree(folder, ignore_errors=True)
        if stopped or not multirun:
            raise JobFailed(error)
        job_return.status, job_return.return_value = JobStatus.COMPLETED, None  # a sweeper stops at a failed job

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print a line for each failed job of this multirun, and exit with status 1 if there are any."""
        found = find([Path(config.hydra.sweep.dir)])
        failed = {path: one for path, one in found.items() if one["state"] == FAILED and one["started"] >= self.started}
        for folder, one in failed.items() if first_process() else ():
            discard = one["error"]["discard"]
            what = " ".join(one["overrides"]) if discard else folder
            print(f"failed: {what}: {one['error']['message']}", file=sys.stderr)
            if discard:
                shutil.rmtree(folder, ignore_errors=True)
        if failed:
            sys.exit(1)


def _wait_for_first_process(folder: Path, timeout: float = 10.0) -> None:
    """Wait until the process of rank 0 has recorded the same configuration error, and removed the folder."""
    end = time.monotonic() + timeout
    while folder.exists() and time.monotonic() < end:
        status = read_status(folder)
        if status is not None and status["ended"] and not (status["error"] or {}).get("discard"):
            return
        time.sleep(0.05)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _own_names(config: DictConfig) -> set[str]:
    """Return the names of the files that exist at the start of every job."""
    return {str(config.hydra.output_subdir), f"{config.hydra.job.name}.log", "status.lock"}
