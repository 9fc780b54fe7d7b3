"""Stop a run at the end of a step: the first Ctrl-C (or SIGTERM) is deferred, the second one takes effect at once."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

logger = logging.getLogger(__name__)


class Stop:
    """Whether a stop has been requested."""

    requested = False


@contextmanager
def exit_on_interrupt(folder: Path, *, saved: str = "all finished steps are saved") -> Iterator[None]:
    """Turn KeyboardInterrupt into exit status 130 with a log message; SIGTERM is handled like Ctrl-C.

    Args:
        folder: the run's folder, named in the message.
        saved: what the message says about the results so far.
    """
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("interrupted; %s in %s; run the same command again to resume", saved, folder)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, former)


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
