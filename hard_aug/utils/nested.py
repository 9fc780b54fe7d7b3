"""Values inside dictionaries, lists, tuples and data classes, at any depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch.utils._pytree import keystr, tree_flatten_with_path


def leaves(value: object, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value that is no container, after its place in Python's notation.

    Containers are those of `torch.utils._pytree` (dictionaries, lists, tuples, named tuples, deques), data classes, and
    mappings of any class.

    Args:
        value: a container, or a value by itself.
        place: of `value`, in front of the places inside it.

    Example:
        >>> list(leaves({"size": 3, "boxes": [1, (2,)]}, "target"))
        [("target['size']", 3), ("target['boxes'][0]", 1), ("target['boxes'][1][0]", 2)]
    """
    for keys, leaf in tree_flatten_with_path(value)[0]:
        where = place + keystr(keys)
        if isinstance(leaf, Mapping):
            for key, item in leaf.items():
                yield from leaves(item, f"{where}[{key!r}]")
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            for field in fields(leaf):
                yield from leaves(getattr(leaf, field.name, None), f"{where}.{field.name}")
        else:
            yield where, leaf


def is_container(value: object) -> bool:
    """Return whether `leaves` looks inside `value`."""
    found = list(leaves(value))
    return len(found) != 1 or found[0][1] is not value
