"""The file `status.json` in a run's folder: whether the run is running, finished, failed or was stopped.

| key | meaning |
|---|---|
| `state` | `running`, `finished`, `failed` or `stopped`; a run that was killed stays `running` |
| `started`, `ended` | UTC, ISO 8601 |
| `overrides` | command-line overrides |
| `error` | type and message of the exception; the traceback is in the log |
| `host`, `pid` | host name and process id |
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
NAME = "status.json"
RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a kill at any moment leaves either the old file or the new one."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(value, indent=1) + "\n")
    unfinished.replace(path)


def first_process() -> bool:
    """Return whether this is the process of rank 0, which writes the files (`RANK`, set by torchrun and accelerate)."""
    return os.environ.get("RANK", "0") == "0"


def now() -> str:
    """Return the current time in UTC, to the microsecond, in a format that sorts chronologically."""
    return datetime.now(UTC).isoformat()


def read(folder: Path) -> dict[str, Any] | None:
    """Return the status in a run's folder, or None if there is none.

    Raises:
        ValueError: the file is not a valid status.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if found["state"] not in (RUNNING, FINISHED, FAILED, STOPPED):
            raise KeyError(found["state"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a valid run status ({error}); remove it") from error
    return found


def find(folders: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Return the status of every run below `folders`, keyed by the run's folder."""
    paths = sorted({path for folder in folders for path in folder.rglob(NAME)})
    return {path.parent: status for path in paths if (status := read(path.parent)) is not None}


def new_status(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the status of a run that starts now."""
    return {
        "state": RUNNING,
        "started": now(),
        "ended": None,
        "overrides": list(overrides),
        "error": None,
        "host": platform.node(),
        "pid": os.getpid(),
    }


@contextmanager
def record_status(folder: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Keep `status.json` up to date while the enclosed run executes; exceptions are recorded and re-raised.

    In a multi-process run only rank 0 writes.

    Args:
        folder: the run's folder; created if missing.
        overrides: command-line overrides.
    """
    status = new_status(overrides)
    if first_process():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / NAME, status)
    try:
        yield
    except Exception as error:  # any type: it is recorded and re-raised
        logger.exception("the run in %s failed; once fixed, the same command resumes from its last checkpoint", folder)
        _end(folder, status, FAILED, {"type": type(error).__name__, "message": str(error)})
        raise
    except BaseException:
        _end(folder, status, STOPPED)
        raise
    _end(folder, status, FINISHED)


def _end(folder: Path, status: dict[str, Any], state: str, error: dict[str, str] | None = None) -> None:
    if not first_process():
        return
    try:
        write_json(folder / NAME, {**status, "state": state, "ended": now(), "error": error})
    except OSError:  # a full disk may be what the run failed on: that error must be the one raised
        logger.exception("%s could not be written", folder / NAME)
        if state == FINISHED:
            raise


def mark_finished(folder: Path, overrides: Sequence[str]) -> None:
    """Set the state of a run that has results to `finished`, in case it was killed after writing them.

    Args:
        folder: the run's folder.
        overrides: command-line overrides, recorded if the folder has no status yet.
    """
    status = read(folder)
    if first_process() and (status is None or status["state"] != FINISHED):
        status = status or new_status(overrides)
        write_json(folder / NAME, {**status, "state": FINISHED, "ended": now(), "error": None})
