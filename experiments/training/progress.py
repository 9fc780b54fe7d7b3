"""Progress of long-running work: bars on a terminal, otherwise a log line at every tenth."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from types import TracebackType

from rich import progress
from rich.console import Console

logger = logging.getLogger(__name__)


class Bar:
    """The progress of one task.

    Args:
        name: of the task.
        total: number of its steps.
        completed: steps that were done earlier, which the remaining time is not estimated from.
        bars: the display that shows it; None: log lines.
        quiet: show nothing.
    """

    def __init__(self, name: str, total: int, completed: int, bars: progress.Progress | None, *, quiet: bool) -> None:
        self.name, self.total, self.first, self.bars, self.quiet = name, total, completed, bars, quiet
        self.started, self.tenths = time.monotonic(), self._tenths(completed)
        if bars is not None:
            self.task = bars.add_task(name, total=total, completed=completed, note="")

    def update(self, completed: int, note: str = "") -> None:
        """Set the number of completed steps.

        Args:
            completed: steps so far, with those done earlier.
            note: shown beside it, such as the loss.
        """
        if self.bars is not None:
            self.bars.update(self.task, completed=completed, note=note)
        elif not self.quiet and self._tenths(completed) > self.tenths:
            self.tenths = self._tenths(completed)
            seconds = time.monotonic() - self.started
            remaining = seconds * (self.total - completed) / (completed - self.first)
            times = f"{_minutes(seconds)} elapsed, {_minutes(remaining)} remaining"
            note = f", {note}" if note else ""
            logger.info("%s: %d of %d, %s%s", self.name, completed, self.total, times, note)

    def _tenths(self, completed: int) -> int:
        return 10 * completed // max(1, self.total)


class Progress:
    """Context manager for the progress of several tasks, one after another.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet, self.bars = quiet, None
        console = Console(stderr=True)
        if not quiet and console.is_terminal and multiprocessing.parent_process() is None:  # bars would overlap
            self.bars = progress.Progress(
                progress.TextColumn("{task.description:<24}", markup=False),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(compact=True),
                progress.TextColumn("{task.fields[note]}", markup=False),
                refresh_per_second=2,
                console=console,
            )

    def task(self, name: str, total: int, completed: int = 0) -> Bar:
        """Start a task.

        Args:
            name: of the task.
            total: number of its steps.
            completed: steps that were done earlier.
        """
        return Bar(name, total, completed, self.bars, quiet=self.quiet)

    def __enter__(self) -> Progress:
        if self.bars is not None:
            self.bars.start()
            handlers = [one for one in logging.getLogger().handlers if type(one) is logging.StreamHandler]
            shown = [one for one in handlers if one.stream.isatty()]
            self.streams = [(one, one.setStream(sys.stdout)) for one in shown]  # rich's, which prints above the bars
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bars is not None:
            self.bars.stop()
            for handler, stream in self.streams:
                handler.setStream(stream)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
