"""Configurations as plain JSON, as hashes and as flat dictionaries."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np


def cache_key(config: dict[str, Any]) -> str:
    """Return a hexadecimal digest of a JSON-able configuration; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=_plain).encode()).hexdigest()[:16]


def as_json(config: Any) -> Any:
    """Return a configuration as JSON has it: lists for tuples, texts for keys, Python's numbers for NumPy's.

    Raises:
        TypeError: it holds something that JSON cannot represent.
    """
    return json.loads(json.dumps(config, default=_plain))


def _plain(value: object) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__}: expected what JSON can represent, such as a number")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration as one dictionary with dotted keys.

    Args:
        config: dictionaries within dictionaries; any other value is a leaf.
        prefix: the key of `config` itself, empty at the root.
    """
    if not isinstance(config, dict):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
