"""Files that are written whole or not at all, text in UTF-8 whatever the locale, and archives that are intact."""

from __future__ import annotations

import errno
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, beside: Path | None = None) -> Iterator[Path]:
    """Yield a path to write a file to, which takes the place of `path` once the block has ended without an error.

    A kill at any moment, a full disk or a power loss leaves the old file or the new one. Where `path` is a link, the
    file that it points to is replaced; a device or a pipe is written to itself.

    Args:
        path: of the file; its folder exists.
        beside: path on the same file system to be yielded; None: `<path>.<process id>.tmp`. It is removed on an error.

    Raises:
        OSError: the file could not be written; the old one is unchanged.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = Path(os.path.realpath(path))
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp") if beside is None else beside
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_bytes(path: Path, data: bytes, *, beside: Path | None = None) -> None:
    """Write a file; see `replacing`."""
    with replacing(path, beside=beside) as unfinished:
        unfinished.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    r"""Write text in UTF-8 with the line ends that it has; see `replacing`.

    A name of a file that is not valid in the file system's encoding has characters that UTF-8 has not. They are written
    as `\udc80`, as JSON writes them.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def check_zip(path: Path) -> None:
    """Raise if a part of an archive does not have its checksum; `torch.load` does not compare those of its files.

    Args:
        path: of a zip archive, which a file of `torch.save` is.

    Raises:
        zipfile.BadZipFile: it is damaged, or no archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
        raise zipfile.BadZipFile(str(error)) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a position outside of the file
            raise
        raise zipfile.BadZipFile(str(error)) from error
    if broken is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {broken}")


def sync_folder(folder: Path) -> None:
    """Make the moves into a folder survive a power loss, on systems that can open folders (not Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
