"""The settings that an object was made with, and a `repr` that shows them."""

from __future__ import annotations

import inspect
from typing import Any


def settings_of(instance: object, *, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the constructor's arguments that `instance` keeps under the argument's name, in their order.

    Args:
        instance: what was constructed.
        skip: arguments to leave out.
    """
    names = [name for name in inspect.signature(type(instance)).parameters if name not in skip]
    return {name: vars(instance)[name] for name in names if name in vars(instance)}


def describe_settings(instance: object, *, skip: tuple[str, ...] = ()) -> str:
    """Format `name=value` for each constructor argument that `instance` keeps under the argument's name.

    Args:
        instance: what is described.
        skip: arguments to leave out.

    Returns:
        Text such as `"temperature=2.0, gamma=None"`; arguments that are not kept as attributes are left out,
        and a value of several lines, such as a network, is shown as the name of its class.
    """
    return ", ".join(f"{name}={_short(value)}" for name, value in settings_of(instance, skip=skip).items())


def _short(value: object) -> str:
    text = repr(value)
    if isinstance(value, float) and len(text) > 8:
        return f"{value:.6g}"
    return type(value).__name__ if "\n" in text else text


class SettingsRepr:
    """Base class whose `repr` reads `ClassName(name=value, ...)`; see `describe_settings`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({describe_settings(self)})"
