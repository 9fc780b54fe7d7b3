"""Training curves, written by accelerate's trackers and to `curves.csv`: `logger=[tensorboard,csv,wandb]`.

All flush immediately, so that everything before a checkpoint survives a kill. On resume the CSV file drops the rows
after the checkpoint, TensorBoard hides them, and wandb continues its run and keeps the first value of each step.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from experiments.training import distributed
from hard_aug.utils.files import write_text

logger = logging.getLogger(__name__)
HEADER = ["step", "name", "value"]


class CSVTracker(GeneralTracker):
    """The file `<run_name>.csv` with a row `step,name,value` for each number: the float's `repr`, which is exact.

    Args:
        run_name: name of the file.
        logging_dir: folder of the file.
        step: that the training resumes from; later rows are dropped, and so is a row that was cut off by a kill.
    """

    name = "csv"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: Path, *, step: int = 0) -> None:
        path = logging_dir / f"{run_name}.csv"
        whole = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0] if path.is_file() else ""
        read = list(csv.reader(io.StringIO(whole.replace("\0", "\ufffd"))))[1:]
        rows = [row for row in read if len(row) == len(HEADER) and row[0].isdecimal() and int(row[0]) <= step]
        if damaged := sum(len(row) != len(HEADER) or not row[0].isdecimal() for row in read):
            logger.warning("%s: %d damaged rows are left out", path, damaged)
        kept = io.StringIO()
        csv.writer(kept, lineterminator="\n").writerows([HEADER, *rows])
        write_text(path, kept.getvalue())
        self.tracker = path.open("a", newline="", encoding="utf-8")
        super().__init__()

    def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
        """Append a row for each value."""
        rows = ((step, name, float(value)) for name, value in values.items())
        csv.writer(self.tracker, lineterminator="\n").writerows(rows)
        self.tracker.flush()

    def finish(self) -> None:
        """Close the file."""
        self.tracker.close()


@dataclass
class Trackers:
    """Several trackers as one."""

    trackers: list[GeneralTracker]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values observed after `step` steps."""
        for tracker in self.trackers:
            tracker.log(dict(values), step=step)

    def close(self) -> None:
        """Close all trackers; also called when a run is stopped."""
        for tracker in self.trackers:
            tracker.finish()


def tracker_classes(names: Sequence[str], folder: Path) -> dict[str, type[GeneralTracker]]:
    """Return the class of each tracker by name.

    Raises:
        ValueError: an unknown name, or one that cannot write to the folder.
        ModuleNotFoundError: its package is not installed.
    """
    known = {**LOGGER_TYPE_TO_CLASS, "csv": CSVTracker}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"logger={list(names)}: expected a list of {', '.join(sorted(known))}, got {unknown[0]}")
    if missing := [name for name in names if name not in (*sys.modules, "csv") and find_spec(name) is None]:
        raise ModuleNotFoundError(f"logger={missing[0]} requires its package: pip install {missing[0]}")
    try:
        str(folder.resolve()).encode()
    except UnicodeEncodeError:
        if "tensorboard" in names:
            raise ValueError(
                f"logger=tensorboard can't write to {folder}, whose name is not UTF-8 here; use logger=[csv], or start "
                "Python with PYTHONUTF8=1"
            ) from None
    return {name: known[name] for name in names}


def trackers(
    names: Sequence[str], folder: Path, step: int, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> Trackers:
    """Return the trackers of a run in `folder` that resumes from `step`; only rank 0 has any.

    `settings` are those of `logger_settings`, by tracker: `project`, and arguments of accelerate's tracker. Raises
    ValueError for an unknown name, and ModuleNotFoundError for a tracker whose package is not installed.
    """
    classes = tracker_classes(names, folder)
    identifier = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    resumed: dict[str, dict[str, Any]] = {
        "csv": {"project": "curves", "step": step},
        "tensorboard": {"project": "tensorboard", "purge_step": step + 1 if step else 0},
        "wandb": {"name": folder.name, "id": identifier, "resume": "allow", "dir": str(folder)},
    }
    started = Trackers([])
    for name, tracker in classes.items() if distributed.rank() == 0 else ():
        chosen = {"project": "hard_aug", **resumed.get(name, {}), **(settings or {}).get(name, {})}
        place = {"logging_dir": folder} if tracker.requires_logging_directory else {}
        started.trackers.append(tracker(chosen.pop("project"), **place, **chosen))
        try:
            started.trackers[-1].start()
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"logger={name} requires its package: pip install {name} ({error})") from error
    return started
