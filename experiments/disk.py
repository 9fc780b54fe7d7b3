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
    """Add to the error of a full disk what is kept and what to do.

    Raises:
        OSError: in place of the system's; any other error is raised as it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        room = f" ({shutil.disk_usage(folder).free / 2**20:.0f} MiB are free)" if folder.is_dir() else ""
        what = f"{error.filename} was not written: " if error.filename else ""
        raise OSError(
            error.errno,
            f"{what}the disk of {folder} is full. Make room{room} and start the same command again: it goes on from "
            "its last checkpoint",
        ) from error
