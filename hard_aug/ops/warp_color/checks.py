"""Argument checks of the warp-and-colour operation.

Only shapes, types and devices are checked, never values: reading those would synchronise with the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor

from hard_aug.ops.memory_formats import KERNEL_DTYPES
from hard_aug.ops.warp_color.reference import PaddingMode, check_control_grid

KERNEL_CHANNELS = (1, 3, 4)
MAX_INT32 = 2**31 - 1


def check_arguments(
    images: Tensor, parameters: Mapping[str, Tensor | None], *, padding_mode: str, dtype: torch.dtype | None
) -> None:
    """Raise `TypeError` or `ValueError` unless all arguments fit together; see `warp_color`."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images: expected a torch.Tensor, got {type(images).__name__}; use torch.as_tensor(images)")
    if images.ndim != 4:
        raise ValueError(
            f"images: expected shape (B, C, H, W), got {tuple(images.shape)}; for a single image use images[None]"
        )
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}: expected floating point, or torch.uint8")
    check_padding_mode(padding_mode)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype={dtype!r}: expected a floating-point torch.dtype")
    batch, channels, height, width = images.shape
    expected: dict[str, tuple[int | str, ...]] = {
        "inverse_map": (batch, 3, 3),
        "displacement": (batch, 2, "h", "w"),
        "color_matrix": (batch, channels, channels + 1),
    }
    for name, value in parameters.items():
        if value is not None:
            _check_parameter(name, value, images, expected[name])
    control = parameters.get("displacement")
    if control is not None and batch:
        check_control_grid(control, height, width)


def check_padding_mode(mode: str) -> None:
    """Raise `ValueError` for an unknown padding mode."""
    if mode not in get_args(PaddingMode):
        raise ValueError(f"padding_mode={mode!r}: expected 'zeros', 'border' or 'reflection'")


def _check_parameter(name: str, value: Tensor, images: Tensor, expected: tuple[int | str, ...]) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        if isinstance(value, Tensor):
            raise TypeError(f"{name} is {value.dtype}: expected a floating-point tensor; use {name}.float()")
        raise TypeError(f"{name} is {type(value).__name__}: expected a floating-point torch.Tensor")
    fits = value.ndim == len(expected) and all(
        isinstance(size, str) or actual == size for actual, size in zip(value.shape, expected, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name}: expected shape ({', '.join(map(str, expected))}) for images of {tuple(images.shape)}, got "
            f"{tuple(value.shape)}"
        )
    if value.device != images.device:
        raise ValueError(f"{name} is on {value.device} and the images are on {images.device}: expected one device")


def span(tensor: Tensor) -> int:
    """Return the number of elements of memory from the first to the last one of a sample."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True))


def unsupported_reason(
    images: Tensor, parameters: Mapping[str, Tensor | None], *, dtype: torch.dtype | None
) -> str | None:
    """Return why the kernel does not support these arguments, which have been checked; None if it does."""
    if images.shape[1] not in KERNEL_CHANNELS:
        return f"the kernel requires images of 1, 3 or 4 channels, got {images.shape[1]}"
    if images.dtype not in (torch.uint8, *KERNEL_DTYPES):
        return f"the kernel requires images of uint8, float16, bfloat16 or float32, got {images.dtype}"
    for name, value in parameters.items():
        if value is not None and value.dtype not in KERNEL_DTYPES:
            return f"the kernel computes in float32, and {name} is {value.dtype}"
    if dtype is not None and dtype not in KERNEL_DTYPES:
        return f"the kernel writes float16, bfloat16 or float32, got dtype={dtype}"
    if max(span(images), images.shape[1:].numel()) > MAX_INT32:
        return f"one image spans more than 2^31 elements: {tuple(images.shape[1:])}, strides {images.stride()[1:]}"
    if len(images) * -(-images.shape[2:].numel() // 32) > MAX_INT32:
        return f"more than 2^31 tiles for images of shape {tuple(images.shape)}; use smaller batches"
    return None
