"""Settings of parts of diffusers: those that a part's own class has, and those that nobody here knows."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any


def names(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


def own_settings(part: Any) -> dict[str, Any]:
    """Return the settings of a scheduler or network of diffusers that its class has.

    Its config may hold others: `from_config` keeps those of the scheduler that the config is from.
    """
    return {name: part.config[name] for name in parameters_of(type(part)) if name in part.config}


def unknown_settings(part: Any, known: Collection[str]) -> dict[str, tuple[Any, Any]]:
    """Return value and default of the settings that are not known and differ from their default.

    Args:
        part: a scheduler or network of diffusers.
        known: names of settings.
    """
    defaults = parameters_of(type(part))
    pairs = {name: (value, defaults[name]) for name, value in own_settings(part).items() if name not in known}
    return {name: (value, default) for name, (value, default) in pairs.items() if not _equal(value, default)}


def parameters_of(kind: type) -> dict[str, Any]:
    """Return the defaults, by name, of the constructor's parameters of a class and of those it is derived from."""
    defaults: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if constructor := vars(base).get("__init__"):
            for name, parameter in list(inspect.signature(constructor).parameters.items())[1:]:  # but `self`
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    defaults[name] = parameter.default
    return defaults


def _equal(value: object, default: object) -> bool:
    """Return whether a setting has its default value; lists of a JSON file equal tuples."""
    value, default = (list(given) if isinstance(given, tuple) else given for given in (value, default))
    return type(value) is type(default) and bool(value == default)
