"""Errors of a full disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: `OSError.errno` of a full disk: no space left, or a quota exceeded.
FULL = (errno.ENOSPC, errno.EDQUOT)


def free_space(folder: Path) -> str:
    """Return `" (<folder> has <n> MiB left)"` for an error message, or an empty string if there is no such folder."""
    return f" ({folder} has {shutil.disk_usage(folder).free / 2**20:.0f} MiB left)" if folder.is_dir() else ""


@contextmanager
def explain_disk_full(folder: Path, message: Callable[[], str] | None = None) -> Iterator[None]:
    """Replace an error that a full disk has caused, directly or as the cause of another error.

    Args:
        folder: being written to; the system does not say which disk is full, and it may be that of a cache.
        message: returns the text of the new error, if the disk is full; None: to free some space and start again.

    Raises:
        OSError: in place of such an error; every other error is raised unchanged.
    """
    try:
        yield
    except Exception as error:  # of any type: a full disk may be its cause, and every other error is re-raised
        first: BaseException | None = error
        while first is not None and not isinstance(first, OSError):
            first = first.__cause__
        if first is None or first.errno not in FULL:
            raise
        advice = (
            f"a disk is full{free_space(folder)}, this one or that of a cache. Free some space and run the same "
            "command again: it resumes from its last checkpoint"
        )
        raise OSError(first.errno, advice if message is None else message()) from error
