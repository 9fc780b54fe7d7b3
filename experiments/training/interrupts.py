"""Stop a run at the end of a step: the first Ctrl-C (or SIGTERM) is deferred, the second one takes effect at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether a stop has been requested."""

    requested = False


@contextmanager
def defer_signals() -> Iterator[Stop]:
    """Record SIGINT and SIGTERM in the yielded `Stop` instead of raising; the former handlers are restored on exit."""
    stop = Stop()

    def record(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        signal.signal(number, signal.default_int_handler)

    former = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
