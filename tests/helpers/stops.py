"""A stop that is requested after a number of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from experiments.training.interrupts import Stop


class StopAt(Stop):
    """Requests a stop when it is checked for the n-th time."""

    def __init__(self, times: int) -> None:
        self.times = times

    @property
    def requested(self) -> bool:  # type: ignore[override]  # computed here, a plain attribute there
        self.times -= 1
        return self.times < 0


def stopping_at(times: int) -> Callable[[], AbstractContextManager[Stop]]:
    """Return a replacement of `defer_signals` that requests a stop when it is checked for the n-th time, from 0."""

    @contextmanager
    def signals() -> Iterator[Stop]:
        yield StopAt(times)

    return signals
