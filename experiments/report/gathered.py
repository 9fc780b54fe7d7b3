"""Tables from files that the command has written before, for which the runs need not be there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: What a group's summary always has.
KEYS = {
    "data",
    "size",
    "sets",
    "main",
    "task",
    "teacher_knows",
    "steps",
    "seeds",
    "device",
    "versions",
    "accuracy",
    "seconds",
    "evaluations",
    "teacher_keeps",
    "best_baseline",
    "reached",
    "config",
}


def read(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The summaries of a file's groups, each with the `command` that made its runs, and the runs without results.

    Raises:
        ValueError: a file that is not of `python -m experiments.report --json`, or is of a version with less in it.
    """
    try:
        found = json.loads(path.read_text())
        groups, unfinished, command = found["groups"], found.get("unfinished", []), found.get("command", "")
        missing = sorted({key for group in groups for key in KEYS - group.keys()})
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not of python -m experiments.report --json ({error!r})") from error
    if missing:
        raise ValueError(f"{path} is of an older version, it has no {', '.join(missing)}; gather its runs again")
    return [{"command": command, **group} for group in groups], unfinished
