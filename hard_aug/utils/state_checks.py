"""Check of a saved state before it is loaded: `load_state_dict` casts and broadcasts, and takes NaN, without a word."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from torch import Tensor


def check_like(given: Any, expected: Any, name: str) -> None:
    """Raise unless a state has the form of another one, and values that can be computed with.

    Args:
        given: nested dictionaries and lists of tensors, numbers, booleans, texts and None.
        expected: of the same form: equal keys and lengths; tensors of equal shape, floating point or integers as here,
            on any device, and finite in the dtype here (unless they are not finite here either); numbers that are
            finite; equal booleans, texts and None.
        name: of the state, for the error.

    Raises:
        ValueError: they differ; names the entry.
    """
    if isinstance(expected, dict):
        if not isinstance(given, dict) or given.keys() != expected.keys():
            keys = sorted(map(str, given)) if isinstance(given, dict) else type(given).__name__
            raise ValueError(f"{name}: expected {sorted(map(str, expected))}, got {keys}")
        for key, value in expected.items():
            check_like(given[key], value, f"{name}[{key!r}]")
    elif isinstance(expected, list | tuple):
        if not isinstance(given, list | tuple) or len(given) != len(expected):
            raise ValueError(f"{name}: expected {len(expected)} values, got {given}")
        for place, (one, other) in enumerate(zip(given, expected, strict=True)):
            check_like(one, other, f"{name}[{place}]")
    elif isinstance(expected, Tensor):
        _check_tensor(given, expected, name)
    elif isinstance(expected, Real) and not isinstance(expected, bool):
        if not isinstance(given, Real) or isinstance(given, bool) or not math.isfinite(given):
            raise ValueError(f"{name}: expected a finite number, got {given!r}")
    elif type(given) is not type(expected) or given != expected:
        raise ValueError(f"{name}: expected {expected!r}, got {given!r}")


def _check_tensor(given: Any, expected: Tensor, name: str) -> None:
    wanted = f"{expected.dtype} of shape {tuple(expected.shape)}"
    if not isinstance(given, Tensor):
        raise ValueError(f"{name}: expected {wanted}, got {type(given).__name__}")
    kinds = [(one.shape, one.is_floating_point(), one.is_complex()) for one in (given, expected)]
    if kinds[0] != kinds[1] or not (given.is_floating_point() or given.dtype == expected.dtype):
        raise ValueError(f"{name}: expected {wanted}, got {given.dtype} of shape {tuple(given.shape)}")
    if bool((~given.to(expected).isfinite() & expected.isfinite()).any()):
        raise ValueError(f"{name}: expected finite values of {wanted}, got NaN or infinity")
