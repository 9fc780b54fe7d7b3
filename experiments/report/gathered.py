"""Tables from JSON files written by the command, without the runs themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Keys of every group's summary.
KEYS = {
    "data",
    "size",
    "sets",
    "main",
    "task",
    "teacher_training",
    "steps",
    "seeds",
    "device",
    "versions",
    "accuracy",
    "seconds",
    "evaluations",
    "teacher_consistency",
    "best_baseline",
    "reached",
    "config",
}


def read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the summaries of a file's groups, each with the `command` of its runs, and the runs without results.

    Raises:
        ValueError: the file was not written by `python -m experiments.report --json`, or by an older version of it.
    """
    try:
        found = json.loads(path.read_text())
        groups, unfinished, command = found["groups"], found.get("unfinished", []), found.get("command", "")
        missing = sorted({key for group in groups for key in KEYS - group.keys()})
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} was not written by python -m experiments.report --json ({error!r})") from error
    if missing:
        raise ValueError(f"{path} is of an older version without {', '.join(missing)}; gather its runs again")
    return [{"command": command, **group} for group in groups], unfinished
