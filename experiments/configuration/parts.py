"""Parts of a configuration that are instantiated in two steps, the second with what only the run knows."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def completed(part: Any, kind: type[T], *given: Any, name: str, **named: Any) -> T:
    """Return a configured part; one whose node is `_partial_` is made here, from what is given.

    Args:
        part: what `instantiate` returned.
        kind: the class that is expected.
        given: positional arguments of a partial.
        name: of the node, for errors.
        named: keyword arguments of a partial.

    Raises:
        TypeError: neither the part nor what it makes is a `kind`.
    """
    made = part
    if not isinstance(part, kind) and callable(part):
        try:
            made = part(*given, **named)
        except TypeError as error:
            raise TypeError(f"{name}: {_described(part)} does not take what it is given here: {error}") from error
    if not isinstance(made, kind):
        found = _described(part) if made is part else f"{_described(part)}, which makes {type(made).__name__}"
        raise TypeError(
            f"{name}: expected {kind.__name__}, or a node with `_partial_: true` that makes one, got {found}; "
            "check its _target_"
        )
    return made


def _described(part: Any) -> str:
    function = getattr(part, "func", part)  # of a partial
    return getattr(function, "__name__", None) or f"an object of {type(part).__name__}"
