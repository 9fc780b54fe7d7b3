"""Checks of what comes into the warp-and-colour operation. Only forms are looked at, never values: those may be far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor

from hard_aug.ops.formats import KERNEL_TYPES
from hard_aug.ops.warp_color.reference import PaddingMode, check_control_grid

KERNEL_CHANNELS = (1, 3, 4)
LARGEST = 2**31 - 1


def check_arguments(
    images: Tensor,
    parameters: Mapping[str, Tensor | None],
    *,
    partner: Tensor | None,
    padding_mode: str,
    dtype: torch.dtype | None,
) -> None:
    """Raise unless all arguments fit together; see `warp_color`."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images: wanted a torch.Tensor, got {type(images).__name__}; use torch.as_tensor(images)")
    if images.ndim != 4:
        raise ValueError(f"images: wanted shape (B, C, H, W), got {tuple(images.shape)}; a single one: images[None]")
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}: wanted floating point, or torch.uint8")
    check_padding_mode(padding_mode)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype={dtype!r}: wanted a floating-point torch.dtype")
    batch, channels, height, width = images.shape
    wanted: dict[str, tuple[int | str, ...]] = {
        "inverse_map": (batch, 3, 3),
        "displacement": (batch, 2, "h", "w"),
        "color_matrix": (batch, channels, channels + 1),
        "partner_weight": (batch,),
        "normalization": ("N", 2, channels),
    }
    for name, value in parameters.items():
        if value is not None:
            _check_parameter(name, value, images, wanted[name])
    control, normalization = parameters.get("displacement"), parameters.get("normalization")
    if control is not None and batch:
        check_control_grid(control, height, width)
    if normalization is not None and len(normalization) not in (1, 2):
        raise ValueError(f"normalization is for {len(normalization)} networks: wanted 1 or 2")
    weight = parameters.get("partner_weight")
    if (partner is None) != (weight is None):
        missing, given = ("partner", "partner_weight") if partner is None else ("partner_weight", "partner")
        raise ValueError(f"{given} without {missing}: wanted both, or neither")
    if partner is not None and not isinstance(partner, Tensor):
        raise TypeError(f"partner is {type(partner).__name__}: wanted a torch.Tensor")
    if partner is not None and (partner.shape, partner.dtype, partner.device) != (
        images.shape,
        images.dtype,
        images.device,
    ):
        raise ValueError(
            f"partner is {partner.dtype} of shape {tuple(partner.shape)} on {partner.device}: wanted what the images "
            f"are, {images.dtype} of shape {tuple(images.shape)} on {images.device}"
        )


def check_padding_mode(mode: str) -> None:
    """Raise `ValueError` for a mode that is none."""
    if mode not in get_args(PaddingMode):
        raise ValueError(f"padding_mode={mode!r}: wanted 'zeros', 'border' or 'reflection'")


def _check_parameter(name: str, value: Tensor, images: Tensor, wanted: tuple[int | str, ...]) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        if isinstance(value, Tensor):
            raise TypeError(f"{name} is {value.dtype}: wanted a floating-point tensor; use {name}.float()")
        raise TypeError(f"{name} is {type(value).__name__}: wanted a floating-point torch.Tensor")
    fits = value.ndim == len(wanted) and all(
        isinstance(want, str) or size == want for size, want in zip(value.shape, wanted, strict=True)
    )
    if not fits:
        shape = ", ".join(map(str, wanted))
        raise ValueError(
            f"{name}: wanted shape ({shape}{',' * (len(wanted) == 1)}) for images of {tuple(images.shape)}, got "
            f"{tuple(value.shape)}"
        )
    if value.device != images.device:
        raise ValueError(f"{name} is on {value.device} and the images are on {images.device}: wanted one device")


def span(tensor: Tensor) -> int:
    """How many elements of memory one sample reaches across."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True))


def refusal(
    images: Tensor, parameters: Mapping[str, Tensor | None], *, partner: Tensor | None, dtype: torch.dtype | None
) -> str | None:
    """Why the kernel does not serve these arguments, checked before; None: it does."""
    if images.shape[1] not in KERNEL_CHANNELS:
        return f"the kernel takes images of 1, 3 or 4 channels, got {images.shape[1]}"
    if images.dtype not in (torch.uint8, *KERNEL_TYPES):
        return f"the kernel takes images of uint8, float16, bfloat16 or float32, got {images.dtype}"
    for name, value in parameters.items():
        if value is not None and value.dtype not in KERNEL_TYPES:
            return f"the kernel computes in float32, and {name} is {value.dtype}"
    if dtype is not None and dtype not in KERNEL_TYPES:
        return f"the kernel writes float16, bfloat16 or float32, not {dtype}"
    for tensor in (images, images if partner is None else partner):
        if max(span(tensor), images.shape[1:].numel()) > LARGEST:
            return f"one image spans more than 2^31 elements: {tuple(images.shape[1:])}, strides {tensor.stride()[1:]}"
    if len(images) * -(-images.shape[2:].numel() // 32) > LARGEST:
        return f"more than 2^31 tiles for images of shape {tuple(images.shape)}; use smaller batches"
    return None
