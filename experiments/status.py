"""`status.json`: what became of a run, in its own folder.

| key | what it is |
|---|---|
| `state` | `running`, `finished`, `failed` or `stopped`; a run that was killed stays `running` |
| `started`, `ended` | UTC, ISO 8601 |
| `overrides` | of the command |
| `error` | type and message of what it failed with; the traceback is in the log |
| `host`, `pid` | of the process |
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
    """Write beside and move over, so that a kill at any moment leaves the old file or the new one."""
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(value, indent=1) + "\n")
    unfinished.replace(path)


def first_process() -> bool:
    """Whether this is the one of several processes that writes; torchrun and accelerate number them."""
    return os.environ.get("RANK", "0") == "0"


def now() -> str:
    """UTC, to the microsecond, in a form that sorts."""
    return datetime.now(UTC).isoformat()


def read(folder: Path) -> dict[str, Any] | None:
    """The status in a run's folder; None: there is none.

    Raises:
        ValueError: a file that is no status.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if found["state"] not in (RUNNING, FINISHED, FAILED, STOPPED):
            raise KeyError(found["state"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no status of a run ({error}); remove it") from error
    return found


def find(folders: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """The status of every run below the folders, by its folder."""
    paths = sorted({path for folder in folders for path in folder.rglob(NAME)})
    return {path.parent: status for path in paths if (status := read(path.parent)) is not None}


def begun(overrides: Sequence[str]) -> dict[str, Any]:
    """The status of a run that starts now."""
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
def recorded(folder: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Keep `status.json` in the folder true while the run inside goes on; what it raises is raised on.

    Of several processes only the first writes.
    """
    status = begun(overrides)
    if first_process():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / NAME, status)
    try:
        yield
    except Exception as error:  # of any kind: it is noted, and raised on
        logger.exception("the run in %s failed; mended, the same command goes on from its last checkpoint", folder)
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
    except OSError:  # a full disk, which may be what the run failed of: that is what has to be raised
        logger.exception("%s could not be written", folder / NAME)
        if state == FINISHED:
            raise


def settle(folder: Path, overrides: Sequence[str]) -> None:
    """Call a run finished whose results are there: it was killed after them, or an earlier version made it."""
    status = read(folder)
    if first_process() and (status is None or status["state"] != FINISHED):
        write_json(folder / NAME, {**(status or begun(overrides)), "state": FINISHED, "ended": now(), "error": None})
