"""Checks of what comes in from outside: images, logits, modes. Each error says what was given and what to do."""

from __future__ import annotations

import torch
from torch import Tensor

RANGE_TOLERANCE = 1e-3


def check_kinds(**given: tuple[object, type]) -> None:
    """Raise `TypeError` unless each value is one of the class beside it."""
    for name, (value, wanted) in given.items():
        if not isinstance(value, wanted):
            found = f"the class {value.__name__}, not one of it" if isinstance(value, type) else type(value).__name__
            article = "an" if wanted.__name__[0] in "AEIOU" else "a"
            raise TypeError(f"{name}: wanted {article} {wanted.__name__}, got {found}")


def check_image_form(images: object) -> Tensor:
    """Raise unless `images` is a floating-point tensor `(B, C, H, W)`; no value is read."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images: wanted a torch.Tensor, got {type(images).__name__}; use torch.as_tensor(images)")
    if not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}: wanted floating point in [0, 1]; use images.float() / 255")
    if images.ndim != 4:
        raise ValueError(f"images: wanted shape (B, C, H, W), got {tuple(images.shape)}; a single one: images[None]")
    if images.shape[1] == 0 or images.shape[2] == 0 or images.shape[3] == 0:
        raise ValueError(f"images of shape {tuple(images.shape)} have no pixels")
    if torch.is_inference_mode_enabled() or images.is_inference():
        raise RuntimeError(
            "called under torch.inference_mode() or with inference tensors, where gradients can't be taken; "
            "use torch.no_grad() or no context at all"
        )
    return images.detach()


def check_labels(labels: object, *, batch: int) -> None:
    """Raise unless `labels` is None or integers `(B,)`; no value is read."""
    if labels is None:
        return
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels: wanted a torch.Tensor, got {type(labels).__name__}; use torch.as_tensor(labels)")
    if labels.shape != (batch,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}: wanted integers ({batch},), one for each image"
        )


def images_in_range(images: Tensor) -> Tensor:
    """Whether all values are finite and in [0, 1], as a bool scalar on the images' device."""
    low, high = images.aminmax()
    # Comparisons with NaN are false, and aminmax hands NaN on.
    return (low >= -RANGE_TOLERANCE) & (high <= 1 + RANGE_TOLERANCE)


def raise_for_values(images: Tensor) -> None:
    """Raise `ValueError` that says how the values are off. Reads them."""
    bad = int((~images.isfinite()).sum())
    if bad:
        raise ValueError(
            f"images hold {bad} NaN or infinite values of {images.numel()}; clean the data before the call"
        )
    low, high = images.aminmax()
    raise ValueError(
        f"images lie in [{float(low):.4g}, {float(high):.4g}]: wanted [0, 1]. Divide bytes by 255; if they are "
        "normalised, undo that and wrap the networks in hard_aug.Normalized(model, mean, std)"
    )


def check_logits(logits: object, *, batch: int, player: str) -> Tensor:
    """Raise unless `logits` is a floating-point tensor `(B, K)`; no value is read."""
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the {player} returned {type(logits).__name__}: wanted a tensor of logits (B, K); "
            "wrap it in a module whose forward picks the logits"
        )
    if logits.ndim != 2 or logits.shape[0] != batch or not logits.is_floating_point():
        raise ValueError(
            f"the {player} returned {logits.dtype} of shape {tuple(logits.shape)} for {batch} images: "
            f"wanted floating-point logits of shape ({batch}, K)"
        )
    return logits


def check_same_classes(*, teacher_logits: Tensor, student_logits: Tensor) -> None:
    """Raise `ValueError` unless both players name equally many classes."""
    if teacher_logits.shape[1] != student_logits.shape[1]:
        raise ValueError(
            f"the teacher has {teacher_logits.shape[1]} classes and the student {student_logits.shape[1]}: "
            "wanted the same; give the student the teacher's head size, or select the shared classes in a wrapper"
        )
