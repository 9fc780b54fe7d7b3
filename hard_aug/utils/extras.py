"""A clear error where a package of an optional extra is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def requires_extra(user: str, extra: str, *packages: str) -> Iterator[None]:
    """Name the extra to install if an import inside the block fails for lack of one of its packages.

    Args:
        user: what needs the packages, for the message.
        extra: name of the extra in `pip install 'hard_aug[extra]'`.
        packages: top-level modules that the extra installs; other import errors are raised unchanged.

    Raises:
        ImportError: one of the packages is not installed.
    """
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        message = f"{user} requires {error.name}: pip install 'hard_aug[{extra}]'"
        raise ImportError(message, name=error.name) from error
