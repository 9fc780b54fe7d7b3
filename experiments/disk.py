"""What to do about a disk that is full."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: The numbers of an OSError that says so: no space is left, a quota is used up.
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Add to the error of a full disk, also where it is another error's cause, what is kept and what to do.

    Which disk that is the system does not say: the run's, or one of a cache.

    Raises:
        OSError: in place of the system's; any other error is raised as it is.
    """
    try:
        yield
    except Exception as error:
        full = _full(error)
        if full is None:
            raise
        free = f" ({folder} has {shutil.disk_usage(folder).free / 2**20:.0f} MiB left)" if folder.is_dir() else ""
        raise OSError(
            full.errno,
            f"a disk is full{free}: of the run, of the teachers' cache, or of the corruptions'. Make room and start "
            "the same command again: it goes on from its last checkpoint",
        ) from error


def _full(error: BaseException | None) -> OSError | None:
    """The error itself, or the one among its causes, that says so."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        error = error.__cause__
    return None
