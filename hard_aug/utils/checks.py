"""Checks of arguments, images, labels and logits. Each error says what was given, what was expected, and the fix."""

from __future__ import annotations

import functools
import math
import operator
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from numbers import Real
from typing import Any, NoReturn, SupportsFloat, SupportsIndex, TypeGuard

import torch
from torch import Tensor

RANGE_TOLERANCE = 1e-3
TWO_CLASSES = (
    "expected at least two classes, because a softmax over one logit is constant and teaches nothing; for a binary "
    "network with the logit z use torch.cat((torch.zeros_like(z), z), 1)"
)


def check_kinds(**given: tuple[object, type]) -> None:
    """Raise `TypeError` unless each value is an instance of the class beside it."""
    for name, (value, expected) in given.items():
        if not isinstance(value, expected):
            article = "an" if expected.__name__[0] in "AEIOU" else "a"
            found = type(value).__name__
            if isinstance(value, type):
                found = f"the class {value.__name__}; pass an instance, {value.__name__}(...)"
            elif isinstance(value, functools.partial):
                made = getattr(value.func, "__name__", str(value.func))
                found = f"a partial of {made}; call it, and pass what it returns"
            elif isinstance(value, types.FunctionType):
                use = "call it in the forward of a module" if expected is torch.nn.Module else "pass what it makes"
                found = f"the function {value.__name__}; {use}"
            raise TypeError(f"{name}: expected {article} {expected.__name__}, got {found}")


def is_integer(value: object) -> TypeGuard[SupportsIndex]:
    """Return whether `value` is an integer of Python or NumPy, or an integer tensor of one element; a bool is none."""
    if isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool:
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]  # that is what it finds out
    except TypeError:
        return False
    return True


def is_number(value: object) -> TypeGuard[SupportsFloat]:
    """Return whether `value` is a real number of Python or NumPy, or a tensor of no axes; a bool is none."""
    if isinstance(value, Tensor):
        return value.ndim == 0 and value.dtype != torch.bool and not value.is_complex()
    return isinstance(value, Real) and not isinstance(value, bool)


def as_python(*values: Any) -> tuple[Any, ...]:
    """Return numbers of NumPy, and tensors of no axes, as Python's, which a `repr` and JSON show as such."""
    return tuple(value.item() if getattr(value, "ndim", None) == 0 else value for value in values)


def store_as_python(settings: Any) -> None:
    """Replace the numbers of NumPy in the fields of a frozen dataclass by Python's; see `as_python`."""
    for field in fields(settings):
        (value,) = as_python(getattr(settings, field.name))
        object.__setattr__(settings, field.name, value)


def check_integer(least: int = 1, **values: object) -> None:
    """Raise `ValueError` unless each value is an integer of at least `least`; None is not checked.

    What passes may be NumPy's; `int(value)` is Python's.
    """
    for name, value in values.items():
        if value is not None and not (is_integer(value) and int(value) >= least):
            raise ValueError(f"{name}={value}: expected an integer >= {least}")


def as_seed(seed: object, *, name: str = "seed") -> int:
    """Return a seed of torch's generators as Python's integer, which they require.

    Raises:
        ValueError: it is no integer in [-2^63, 2^64).
    """
    if not is_integer(seed) or not -(2**63) <= int(seed) < 2**64:
        raise ValueError(f"{name}={seed!r}: expected an integer of at most 64 bits, such as {name}=0")
    return int(seed)


def _check_numbers(values: dict[str, float], accepts: Callable[[float], bool], expected: str) -> None:
    for name, value in values.items():
        if not (is_number(value) and math.isfinite(value) and accepts(value)):
            raise ValueError(f"{name}={value}: expected {expected}")


def check_positive_number(**values: float) -> None:
    """Raise `ValueError` unless each value is a finite number above 0."""
    _check_numbers(values, lambda value: value > 0, "a positive number")


def check_nonnegative(**values: float) -> None:
    """Raise `ValueError` unless each value is a finite number of at least 0."""
    _check_numbers(values, lambda value: value >= 0, "a number >= 0")


def check_unit_interval(**values: float) -> None:
    """Raise `ValueError` unless each value is a number in [0, 1]."""
    _check_numbers(values, lambda value: 0 <= value <= 1, "a number in [0, 1]")


def check_fraction(**values: float) -> None:
    """Raise `ValueError` unless each value is a number in (0, 1]."""
    _check_numbers(values, lambda value: 0 < value <= 1, "a fraction in (0, 1]")


def check_image_form(images: object, *, takes_gradients: bool = True) -> Tensor:
    """Return `images`, detached; raise unless they are a floating-point tensor `(B, C, H, W)`; no value is read.

    Args:
        images: what was given.
        takes_gradients: whether gradients will be taken, for which inference mode is refused.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images: expected a torch.Tensor, got {type(images).__name__}; {_images_inside(images)}")
    if not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}: expected floating point in [0, 1]; use images.float() / 255")
    if images.ndim != 4:
        raise ValueError(f"images: expected shape (B, C, H, W), got {tuple(images.shape)}; a single one: images[None]")
    if images.shape[1] == 0 or images.shape[2] == 0 or images.shape[3] == 0:
        raise ValueError(f"images of shape {tuple(images.shape)} have no pixels")
    if looks_channels_last(tuple(images.shape)):
        raise ValueError(
            f"images {tuple(images.shape)} look like channels last: expected (B, C, H, W); use "
            "images.permute(0, 3, 1, 2)"
        )
    if takes_gradients and (torch.is_inference_mode_enabled() or images.is_inference()):
        raise RuntimeError(
            "called under torch.inference_mode() or with inference tensors, where gradients can't be taken; "
            "use torch.no_grad() or no context at all"
        )
    return images.detach()


def _images_inside(batch: object) -> str:
    """Return how to take the images out of what a loader may give."""
    if isinstance(batch, Mapping):
        keys = [key for key, value in batch.items() if isinstance(value, Tensor) and value.ndim == 4]
        return f"pass batch[{keys[0]!r}]" if keys else f"pass its images (its keys are {', '.join(map(repr, batch))})"
    if isinstance(batch, Sequence) and batch and all(isinstance(value, Tensor) for value in batch):
        if all(value.ndim == 3 for value in batch):
            return "use torch.stack(images)"
        return "unpack the batch: images, labels = batch"
    return "use torch.as_tensor(images)"


def check_labels(labels: object, *, batch: int, required_by: object = None) -> None:
    """Raise unless `labels` is integers `(B,)`, or None where they are not required; no value is read.

    Args:
        labels: what was given.
        batch: B.
        required_by: the objective that cannot do without; None: they are optional.

    Raises:
        TypeError: no tensor.
        ValueError: missing, or of wrong shape or dtype.
    """
    if labels is None:
        if required_by is not None:
            name = type(required_by).__name__
            other = (
                f", or use the teacher's prediction on the clean images in their place with {name}(target='teacher')"
                if hasattr(required_by, "target")
                else ""
            )
            raise ValueError(f"{name} requires labels: call augmenter(images, labels){other}")
        return
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels: expected a torch.Tensor, got {type(labels).__name__}; use torch.as_tensor(labels)")
    if labels.shape != (batch,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}: expected integers ({batch},), one per image"
        )


def images_in_range(images: Tensor, tolerance: float = RANGE_TOLERANCE) -> Tensor:
    """Return whether all values are finite and in [0, 1], as a bool scalar on the images' device."""
    low, high = images.aminmax()
    # Comparisons with NaN are false, and aminmax propagates NaN.
    return (low >= -tolerance) & (high <= 1 + tolerance)


def raise_for_values(
    images: Tensor, *, advice: str = "undo that first, images * std + mean", undone: bool = False
) -> NoReturn:
    """Raise the `ValueError` for images out of range. Synchronises with the device.

    Args:
        images: with values that are not finite or outside [0, 1].
        advice: what to do with normalised images; where a normalisation was undone, what to do at all.
        undone: whether one was.
    """
    bad = int((~images.isfinite()).sum())
    if bad:
        raise ValueError(
            f"images hold {bad} NaN or infinite values of {images.numel()}; clean the data before the call"
        )
    low, high = images.aminmax()
    found = f"images lie in [{float(low):.4g}, {float(high):.4g}]"
    if undone:
        raise ValueError(f"{found} once normalization is undone: expected [0, 1]; {advice}")
    raise ValueError(f"{found}: expected [0, 1]. Divide bytes by 255; if they are normalised, {advice}")


def check_images(images: object) -> Tensor:
    """Return `images`, detached; raise unless they are floating point, `(B, C, H, W)`, finite and in [0, 1].

    Synchronises with the device.
    """
    checked = check_image_form(images)
    if checked.numel() and not bool(images_in_range(checked)):
        raise_for_values(checked)
    return checked


def looks_channels_last(shape: tuple[int, ...], channels: int | None = None) -> bool:
    """Return whether images of this shape are rather `(B, H, W, C)`.

    Args:
        shape: four sizes.
        channels: of the images that a network takes; None: unknown, so 1, 3 or 4.
    """
    _, second, height, last = shape
    if channels is not None:
        return second != channels and last == channels
    # Signals and features have many channels and few columns, too: of one column, only squares are images.
    low, high = sorted((second, height))
    return last in (1, 3, 4) and low > 4 and high <= (low if last == 1 else 4 * low)


def check_logits(logits: object, *, batch: int, network: str) -> Tensor:
    """Raise unless `logits` is a floating-point tensor `(B, K)` with at least two classes; no value is read."""
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the {network} returned {type(logits).__name__}: expected a tensor of logits (B, K); "
            "wrap it in a module whose forward picks the logits"
        )
    if logits.ndim != 2 or logits.shape[0] != batch or not logits.is_floating_point():
        raise ValueError(
            f"the {network} returned {logits.dtype} of shape {tuple(logits.shape)} for {batch} images: "
            f"expected floating-point logits of shape ({batch}, K)"
        )
    if logits.shape[1] < 2:
        raise ValueError(f"the {network} returned logits of shape {tuple(logits.shape)}: {TWO_CLASSES}")
    return logits


def check_same_classes(*, teacher_logits: Tensor, student_logits: Tensor) -> None:
    """Raise `ValueError` unless both networks have the same number of classes."""
    if teacher_logits.shape[1] != student_logits.shape[1]:
        raise ValueError(
            f"the teacher has {teacher_logits.shape[1]} classes and the student {student_logits.shape[1]}: "
            "expected the same; give the student the teacher's head size, or select the shared classes in a wrapper"
        )


def checked_normalization(mean: Sequence[float], std: Sequence[float], *, name: str) -> tuple[list[float], list[float]]:
    """Return both as lists of numbers.

    Args:
        mean: per channel.
        std: per channel.
        name: for the error.

    Raises:
        ValueError: unequal lengths, a std that is not positive, or values that are not in units of [0, 1].
    """
    mean, std = [float(value) for value in mean], [float(value) for value in std]
    if len(mean) != len(std) or not mean:
        raise ValueError(
            f"{name}: mean has {len(mean)} channels and std {len(std)}: expected the same number, at least 1"
        )
    if not all(value > 0 for value in std) or not all(map(math.isfinite, (*mean, *std))):
        raise ValueError(
            f"{name}: mean={tuple(mean)}, std={tuple(std)}: expected finite numbers, those of std positive"
        )
    if max(map(abs, mean)) > 1 or max(std) > 1:
        raise ValueError(
            f"{name}: mean={tuple(mean)}, std={tuple(std)} look like units of [0, 255]; divide both by 255"
        )
    return mean, std
