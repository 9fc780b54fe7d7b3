"""Where a student's curves go: `logger=[tensorboard,csv]`, or any of these, several at once.

| name | where | a resumed run |
|---|---|---|
| `TensorBoard` | `tensorboard/<student>/` | hides what was written after its checkpoint |
| `CSV` | `curves/<student>.csv`, rows `step,name,value` | drops the rows after its checkpoint |
| `WandB` | wandb.ai, a run for each student | goes on with the same run |

All write at once what they are given, so that what a checkpoint knows of is there after a kill.
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
    """Takes numbers by name."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write what was seen after `step` steps."""

    def close(self) -> None:
        """Called at the end, also of a run that is stopped."""


class TensorBoard:
    """Curves for TensorBoard.

    Args:
        folder: of the run.
        name: of the student.
        step: that the training goes on from; what was written after it counts no more.
    """

    def __init__(self, folder: Path, name: str, step: int) -> None:
        self._writer = SummaryWriter(str(folder / "tensorboard" / name), purge_step=step + 1 if step else 0)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class CSV:
    """One table for each student, a row for each number; `repr` of a float, so that nothing is lost.

    Args:
        folder: of the run.
        name: of the student.
        step: that the training goes on from; rows after it are dropped, and one that a kill has cut.
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
        self._table.writerows((step, name, float(value)) for name, value in values.items())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _rows(path: Path, step: int) -> list[list[str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [row for row in rows if len(row) == len(HEADER) and int(row[0]) <= step]


class WandB:
    """Curves at wandb.ai, or in the run's folder with `mode=offline`.

    A resumed run logs the steps after its checkpoint again, with the same values; wandb keeps the first ones.

    Args:
        folder: of the run; with the student's name it also names the run there, so that a resumed one finds it.
        name: of the student.
        step: that the training goes on from.
        project, mode: as of `wandb.init`.

    Raises:
        ModuleNotFoundError: wandb is not installed.
    """

    def __init__(self, folder: Path, name: str, step: int, *, project: str, mode: str | None = None) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("logger=wandb wants the package wandb: pip install wandb") from error
        identifier = hashlib.sha256(f"{folder.resolve()}:{name}".encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=project, name=name, group=folder.name, id=identifier, resume="allow", dir=str(folder), mode=mode
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class Loggers:
    """All of them as one.

    Args:
        settings: the group `logger`, by name; None or empty: no curves are written.
        folder: of the run.
        name: of the student.
        step: that the training goes on from.
    """

    def __init__(self, settings: DictConfig | None, folder: Path, name: str, step: int) -> None:
        self._loggers: list[Logger] = []
        for node in (settings or {}).values():
            self._loggers.append(instantiate(node, folder=folder, name=name, step=step))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Hand them to all."""
        for logger in self._loggers:
            logger.scalars(step, values)

    def close(self) -> None:
        """Close all."""
        for logger in self._loggers:
            logger.close()
