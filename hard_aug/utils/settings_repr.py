"""A `repr` that shows the settings an object was made with."""

from __future__ import annotations

import inspect


def describe_settings(instance: object, *, skip: tuple[str, ...] = ()) -> str:
    """Format `name=value` for each constructor argument that `instance` keeps under the argument's name.

    Args:
        instance: what is described.
        skip: arguments to leave out.

    Returns:
        Text such as `"temperature=2.0, gamma=None"`; arguments that are not kept as attributes are left out.
    """
    kept = []
    for name in inspect.signature(type(instance)).parameters:
        if name in vars(instance) and name not in skip:
            kept.append(f"{name}={vars(instance)[name]!r}")
    return ", ".join(kept)


class SettingsRepr:
    """Base class whose `repr` reads `ClassName(name=value, ...)`; see `describe_settings`."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({describe_settings(self)})"
