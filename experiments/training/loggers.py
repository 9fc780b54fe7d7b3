"""Loggers of a student's training curves, in any combination: `logger=[tensorboard,csv]`.

| name | output | on resume |
|---|---|---|
| `TensorBoard` | `tensorboard/<student>/` | hides entries written after the checkpoint |
| `CSV` | `curves/<student>.csv`, rows `step,name,value` | drops the rows after the checkpoint |
| `WandB` | wandb.ai, one run a student | continues the same run |

All flush immediately, so that everything before a checkpoint survives a kill.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.utils.tensorboard import SummaryWriter

HEADER = ("step", "name", "value")


class Logger(Protocol):
    """Writes scalars by name."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values observed after `step` steps."""

    def close(self) -> None:
        """Close the logger; also called when a run is stopped."""


class TensorBoard:
    """Scalars for TensorBoard.

    Args:
        folder: of the run.
        name: of the student.
        step: that the training resumes from; entries written after it are hidden.
    """

    def __init__(self, folder: Path, name: str, step: int) -> None:
        self._writer = SummaryWriter(str(folder / "tensorboard" / name), purge_step=step + 1 if step else 0)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger.scalars`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """See `Logger.close`."""
        self._writer.close()


class CSV:
    """One CSV file for each student with a row for each number, written as the float's `repr`, which is exact.

    Args:
        folder: of the run.
        name: of the student.
        step: that the training resumes from; later rows are dropped, and so is a row that was cut off by a kill.
    """

    def __init__(self, folder: Path, name: str, step: int) -> None:
        path = folder / "curves" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        with unfinished.open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(HEADER)
            table.writerows(_rows(path, step))
        unfinished.replace(path)
        self._file = path.open("a", newline="")
        self._table = csv.writer(self._file, lineterminator="\n")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger.scalars`."""
        self._table.writerows((step, name, float(value)) for name, value in values.items())
        self._file.flush()

    def close(self) -> None:
        """See `Logger.close`."""
        self._file.close()


def _rows(path: Path, step: int) -> list[list[str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [row for row in rows if len(row) == len(HEADER) and int(row[0]) <= step]


class WandB:
    """Scalars at wandb.ai, or in the run's folder with `mode=offline`.

    A resumed run logs the steps after its checkpoint again, with the same values; wandb keeps the first ones.

    Args:
        folder: of the run; with the student's name it determines the id of the wandb run, so that a resumed run
            continues it.
        name: of the student.
        step: that the training resumes from.
        project: see `wandb.init`.
        mode: see `wandb.init`.

    Raises:
        ModuleNotFoundError: wandb is not installed.
    """

    def __init__(self, folder: Path, name: str, step: int, *, project: str, mode: str | None = None) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("logger=wandb requires the package wandb: pip install wandb") from error
        identifier = hashlib.sha256(f"{folder.resolve()}:{name}".encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=project, name=name, group=folder.name, id=identifier, resume="allow", dir=str(folder), mode=mode
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Logger.scalars`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """See `Logger.close`."""
        self._run.finish()


class Loggers:
    """The loggers of the configuration, as one.

    Args:
        settings: the config group `logger`, by name; None or empty: nothing is logged.
        folder: of the run.
        name: of the student.
        step: that the training resumes from.
    """

    def __init__(self, settings: DictConfig | None, folder: Path, name: str, step: int) -> None:
        nodes = (settings or {}).values()
        self._loggers: list[Logger] = [instantiate(node, folder=folder, name=name, step=step) for node in nodes]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values to every logger.

        Args:
            step: number of steps so far.
            values: scalars by name.
        """
        for logger in self._loggers:
            logger.scalars(step, values)

    def close(self) -> None:
        """Close every logger."""
        for logger in self._loggers:
            logger.close()
