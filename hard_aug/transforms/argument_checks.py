"""Checks of the constructor arguments of transforms: ranges, sizes, and values that look like another unit's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

from hard_aug.utils.checks import is_integer, is_number


def _looks_like_radians(value: float) -> bool:
    """Return whether an angle is below one degree, or a whole number of degrees up to a turn when read as radians."""
    degrees = math.degrees(value)
    return value < 1 or (value <= 2 * math.pi + 1e-6 and abs(degrees - round(degrees)) < 1e-4)


_ANGLE = "is in degrees; math.degrees(x) converts radians"
_FACTOR = "is a factor; 20 % more or less is {name}=1.2"
_FRACTION = "is a fraction of the image's size, so what moves leaves the image; divide pixels by the size"
_INTENSITY = "is in units of the images' range [0, 1]; divide bytes by 255"
#: By argument: the values that are probably meant in another unit, and the unit that they are in.
_UNITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "translation": (lambda value: value > 1, _FRACTION),
    "magnitude": (lambda value: value > 1, _FRACTION),
    "rotation": (_looks_like_radians, _ANGLE),
    "tilt": (_looks_like_radians, _ANGLE),
    "hue": (_looks_like_radians, _ANGLE + ", and 360 * x a fraction x of the circle"),
    "shear": (lambda value: value > 2, "is the tangent of an angle; math.tan(math.radians(x)) converts degrees"),
    "scale": (lambda value: value > 10, _FACTOR),
    "contrast": (lambda value: value > 10, _FACTOR),
    "saturation": (lambda value: value > 10, _FACTOR),
    "gamma": (lambda value: value > 10, _FACTOR),
    "brightness": (lambda value: value > 1, _INTENSITY),
    "noise": (lambda value: value > 1, _INTENSITY),
    "blur": (
        lambda value: value < 0.3,
        "is a standard deviation in pixels, and less than 0.3 has no effect; multiply a fraction by the image's size",
    ),
    "focal_length": (
        lambda value: value > 20,
        "is in units of the image's longer side, and from so far away nothing is distorted; the default is 2",
    ),
}


def warn_of_units(**values: float | None) -> None:
    """Warn of values that look like another unit's, such as a translation of 8 images; None is not checked.

    The warning names the line that called the caller: the one that created the transform.
    """
    for name, value in values.items():
        is_other, unit = _UNITS[name]
        if value is not None and is_other(value):
            warnings.warn(f"{name}={value:g} {unit.format(name=name)} (ignore this if that is meant)", stacklevel=3)


def check_positive(**ranges: float | None) -> None:
    """Raise `ValueError` unless each range is a positive number, or None for a part that is switched off."""
    for name, value in ranges.items():
        if value is not None and not (_is_finite(value) and value > 0):
            raise ValueError(
                f"{name}={value}: expected a positive number{_one_number(value)}; {name}=None switches it off"
            )


def check_factors(**factors: float | None) -> None:
    """Raise `ValueError` unless each largest factor is above 1, or None for a part that is switched off."""
    for name, value in factors.items():
        if value is not None and not (_is_finite(value) and value > 1):
            raise ValueError(
                f"{name}={value}: expected a factor above 1{_one_number(value)}, such as 1.2 for 20 % more or less; "
                f"{name}=None switches it off"
            )


def _is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def _one_number(value: object) -> str:
    return ", the end of a range that is symmetric about the identity" if isinstance(value, list | tuple) else ""


def check_pair(**sizes: int | Sequence[int]) -> tuple[int, int]:
    """Convert one size, given as a keyword argument, to (rows, columns); a single number is used for both.

    Raises:
        TypeError: If the size is not an integer or two integers.
        ValueError: If an integer is below 1.
    """
    ((name, size),) = sizes.items()
    pair = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2 or not all(is_integer(length) for length in pair):
        raise TypeError(f"{name}={size!r}: expected an integer, or a pair (rows, columns)")
    rows, columns = (int(length) for length in pair)
    if min(rows, columns) < 1:
        raise ValueError(f"{name}={size!r}: expected integers >= 1")
    return rows, columns
