"""Names of the files in a run's folder, their JSON, and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hard_aug.utils.files import replacing, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECORD, STUDENT, CONFIG = "metrics.json", "student.pt", "config.yaml"


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a kill at any moment leaves either the old file or the new one."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure as PNG; see `hard_aug.utils.files`."""
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=dpi)


def read_json(path: Path, *, advice: str = "remove it, and run the command that made it again") -> dict[str, Any]:
    """Read a dictionary of JSON.

    Args:
        path: of the file.
        advice: what to do if it is damaged.

    Raises:
        ValueError: the file is damaged, or has something else.
        FileNotFoundError: there is no such file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # neither JSON nor UTF-8
        raise ValueError(f"{path} is not valid JSON ({error}); {advice}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} has a {type(found).__name__}, expected a dictionary; {advice}")
    return found
