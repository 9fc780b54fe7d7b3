"""What to do about a disk that is full."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: The numbers of an OSError that says so: no space is left, a quota is used up.
FULL = (errno.ENOSPC, errno.EDQUOT)


def room(folder: Path) -> str:
    """What is free where the folder is, in brackets after a space; nothing where there is no such folder."""
    return f" ({folder} has {shutil.disk_usage(folder).free / 2**20:.0f} MiB left)" if folder.is_dir() else ""


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Add to the error of a full disk, also where it is another error's cause, what is kept and what to do.

    Which disk that is the system does not say: the run's, or one of a cache.

    Raises:
        OSError: in place of the system's; any other error, one that says it already too, is raised as it is.
    """
    try:
        yield
    except Exception as error:  # of any kind: a full disk may be its cause; where none is, it is raised on
        first: BaseException | None = error
        while first is not None and not isinstance(first, OSError):
            first = first.__cause__
        if first is None or first.errno not in FULL:
            raise
        raise OSError(
            first.errno,
            f"a disk is full{room(folder)}: of the run, of the teachers' cache, or of the corruptions'. Make room and "
            "start the same command again: it goes on from its last checkpoint",
        ) from error
