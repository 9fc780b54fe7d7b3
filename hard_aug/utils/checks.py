"""Checks of arguments, images, labels and logits. Each error says what was given, what was expected, and the fix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real

import torch
from torch import Tensor

RANGE_TOLERANCE = 1e-3
#: Where a normalisation is undone: bfloat16 keeps values of up to 4 to 2^-7, times a standard deviation of up to 0.5.
NORMALIZED_TOLERANCE = 1e-2
NORMALIZED_ADVICE = (
    "say so with normalization=(mean, std), and wrap the networks in hard_aug.Normalized(model, mean, std)"
)


def check_kinds(**given: tuple[object, type]) -> None:
    """Raise `TypeError` unless each value is an instance of the class beside it."""
    for name, (value, expected) in given.items():
        if not isinstance(value, expected):
            article = "an" if expected.__name__[0] in "AEIOU" else "a"
            found = type(value).__name__
            if isinstance(value, type):
                found = f"the class {value.__name__}; pass an instance, {value.__name__}(...)"
            raise TypeError(f"{name}: expected {article} {expected.__name__}, got {found}")


def check_integer(least: int = 1, **values: object) -> None:
    """Raise `ValueError` unless each value is an integer of at least `least`; None is not checked."""
    for name, value in values.items():
        if value is not None and not (isinstance(value, int) and not isinstance(value, bool) and value >= least):
            raise ValueError(f"{name}={value}: expected an integer >= {least}")


def _check_numbers(values: dict[str, float], accepts: Callable[[float], bool], expected: str) -> None:
    for name, value in values.items():
        if not (isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and accepts(value)):
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


def check_image_form(images: object) -> Tensor:
    """Raise unless `images` is a floating-point tensor `(B, C, H, W)`; no value is read."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images: expected a torch.Tensor, got {type(images).__name__}; use torch.as_tensor(images)")
    if not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}: expected floating point in [0, 1]; use images.float() / 255")
    if images.ndim != 4:
        raise ValueError(f"images: expected shape (B, C, H, W), got {tuple(images.shape)}; a single one: images[None]")
    if images.shape[1] == 0 or images.shape[2] == 0 or images.shape[3] == 0:
        raise ValueError(f"images of shape {tuple(images.shape)} have no pixels")
    if torch.is_inference_mode_enabled() or images.is_inference():
        raise RuntimeError(
            "called under torch.inference_mode() or with inference tensors, where gradients can't be taken; "
            "use torch.no_grad() or no context at all"
        )
    return images.detach()


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


def raise_for_values(images: Tensor, *, undone: bool = False, advice: str = NORMALIZED_ADVICE) -> None:
    """Raise the `ValueError` for images out of range. Synchronises with the device.

    Args:
        images: with values that are not finite or outside [0, 1].
        undone: whether a normalisation was undone before.
        advice: what to do with normalised images.
    """
    bad = int((~images.isfinite()).sum())
    if bad:
        raise ValueError(
            f"images hold {bad} NaN or infinite values of {images.numel()}; clean the data before the call"
        )
    low, high = images.aminmax()
    if undone:
        raise ValueError(
            f"images lie in [{float(low):.4g}, {float(high):.4g}] once normalization is undone: expected [0, 1]; "
            "is it the loader's own? Leave it out for images in [0, 1]. (timm's random erasing fills with values from "
            "outside in its modes 'rand' and 'pixel'; use re_mode='const')"
        )
    raise ValueError(
        f"images lie in [{float(low):.4g}, {float(high):.4g}]: expected [0, 1]. Divide bytes by 255; if they are "
        f"normalised, {advice}"
    )


def check_images(images: object) -> Tensor:
    """Return `images`, detached; raise unless they are floating point, `(B, C, H, W)`, finite and in [0, 1].

    Synchronises with the device.
    """
    checked = check_image_form(images)
    if checked.numel() and not bool(images_in_range(checked)):
        raise_for_values(checked)
    return checked


class ImageCheck:
    """Checks the images that a `HardAugmenter` is called with, and undoes their normalisation.

    Values are read on the CPU at each call, on a GPU (where that synchronises with the device) at the first call of a
    shape; later faults there are noted in `bad`, a bool scalar.

    Args:
        device: of the networks.
        normalization: `(mean, std)` per channel to be undone; None: images are in [0, 1] already.
    """

    def __init__(
        self, device: torch.device, normalization: tuple[Sequence[float], Sequence[float]] | None = None
    ) -> None:
        self.device = device
        self.bad = torch.zeros((), dtype=torch.bool, device=device)
        self._seen: set[tuple[int, ...]] = set()
        self._normalization: tuple[Tensor, Tensor] | None = None
        if normalization is not None:
            try:
                mean, std = (list(values) for values in normalization)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"normalization={normalization!r}: expected (mean, std), with a number for each channel in both"
                ) from error
            mean, std = checked_normalization(mean, std, name="normalization")
            shape = (1, -1, 1, 1)
            self._normalization = (
                torch.tensor(mean, device=device).view(shape),
                torch.tensor(std, device=device).view(shape),
            )

    def __call__(self, images: object) -> Tensor:
        """Return `images` in [0, 1], detached.

        Args:
            images: `(B, C, H, W)`, normalised or not as the constructor was told.

        Raises:
            TypeError: no floating-point tensor.
            ValueError: wrong rank, device, channels or range.
            RuntimeError: inference mode.
        """
        images = check_image_form(images)
        if images.device.type != self.device.type:
            raise ValueError(
                f"images are on {images.device}, and the networks were on {self.device} when the augmenter was "
                f"created; use images.to('{self.device}'), or create the augmenter after moving the networks"
            )
        if self._normalization is not None:
            images = self._denormalized(images, *self._normalization)
        if images.numel() == 0:
            return images
        tolerance = RANGE_TOLERANCE if self._normalization is None else NORMALIZED_TOLERANCE
        in_range = images_in_range(images, tolerance)
        if images.is_cuda and tuple(images.shape) in self._seen:
            self.bad |= ~in_range
        elif not bool(in_range):
            raise_for_values(images, undone=self._normalization is not None)
        self._seen.add(tuple(images.shape))
        return images if self._normalization is None else images.clamp(0, 1)

    def _denormalized(self, images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        if images.shape[1] != mean.shape[1]:
            raise ValueError(f"normalization has {mean.shape[1]} channels, and the images have {images.shape[1]}")
        return (images * std + mean).to(images.dtype)

    def labels(self, labels: Tensor, *, classes: int) -> Tensor:
        """Return `labels`, `(B,)`, on the device.

        Args:
            labels: integers.
            classes: K.

        Raises:
            ValueError: values outside [0, classes). (On a GPU that is noted in `bad`.)
        """
        labels = labels.to(self.device)
        if labels.numel() == 0:
            return labels
        low, high = labels.aminmax()
        wrong = (low < 0) | (high >= classes)
        if wrong.is_cuda:
            self.bad |= wrong
        elif bool(wrong):
            raise ValueError(
                f"labels lie in [{int(low)}, {int(high)}], and the teacher has {classes} classes: expected 0 to "
                f"{classes - 1}; leave out images without a label"
            )
        return labels


def check_logits(logits: object, *, batch: int, network: str) -> Tensor:
    """Raise unless `logits` is a floating-point tensor `(B, K)`; no value is read."""
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
