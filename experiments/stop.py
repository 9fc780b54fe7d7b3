"""A stop at the end of a step: the first Ctrl-C (or SIGTERM) is noted, the second one takes effect at once."""

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
    """Whether a stop was asked for."""

    requested = False


@contextmanager
def told(folder: Path, *, kept: str = "all finished steps are kept") -> Iterator[None]:
    """End the command with status 130 where a stop was asked for, and say what is kept; SIGTERM is a Ctrl-C here."""
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("stopped; %s in %s, and the same command goes on from there", kept, folder)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, former)


@contextmanager
def graceful() -> Iterator[Stop]:
    """Note SIGINT and SIGTERM instead of dying of them; the former handlers come back at the end."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        signal.signal(number, signal.default_int_handler)

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
