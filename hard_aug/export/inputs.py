"""What a `LearnedAugmentation` accepts: images in [0, 1], and beside them nothing that would have to move with them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hard_aug.utils.checks import images_in_range, looks_channels_last, raise_for_values
from hard_aug.utils.nested import is_container, leaves

#: How far resizing goes beyond the values that it interpolates: torch's bicubic kernel (a = -3/4) has negative weights
#: of at most 3/16 on each axis, so 2 * (1 + 3/16) * 3/16 of [0, 1] in both. (Antialiased, as torchvision's: 0.31.)
OVERSHOOT = 57 / 128
#: The same on average over an image. Pictures have less than 0.001, random black and white pixels 0.035.
MEAN_OVERSHOOT = 0.05


def check_inputs(images: object, others: tuple[Any, ...], *, device: torch.device) -> None:
    """Raise unless `images` can be augmented, and `others` are right for the augmented ones too; no value is read.

    Args:
        images: `(C, H, W)` or `(B, C, H, W)`.
        others: what accompanies them. Boxes, masks, points and images are found inside containers too.
        device: of the policy.

    Raises:
        TypeError: no tensor, integers other than uint8, or something that would have to move with the images.
        ValueError: wrong rank, channels last, or another device.
    """
    if not isinstance(images, Tensor):
        advice = "put v2.ToImage() before the augmentation"
        if is_container(images):
            advice = "pass the images in it by themselves, as one tensor, and no boxes or masks"
        raise TypeError(f"images: expected a tensor, got {type(images).__name__}; {advice}")
    kinds = _tv_tensors()
    if kinds is not None and isinstance(images, kinds.TVTensor) and not isinstance(images, kinds.Image):
        raise TypeError(f"images: expected a tensor or a tv_tensors.Image, got {type(images).__name__}")
    if not (images.is_floating_point() or images.dtype == torch.uint8):
        raise TypeError(f"images are {images.dtype}: expected floating point in [0, 1], or uint8")
    if images.ndim not in (3, 4):
        raise ValueError(f"images: expected shape (C, H, W) or (B, C, H, W), got {tuple(images.shape)}")
    shape = tuple(images.shape)
    if looks_channels_last((1, *shape)[-4:]):
        axes = (2, 0, 1) if images.ndim == 3 else (0, 3, 1, 2)
        raise ValueError(f"images {shape} look like channels last; use images.permute{axes}")
    if images.device.type != device.type:
        raise ValueError(f"images are on {images.device} and the policy on {device}; use .to('{images.device}')")
    for place, value in leaves(others, "others"):
        if value is not images and _is_spatial(value, images):
            of_shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
            raise TypeError(
                f"got a {type(value).__name__}{of_shape} at {place}, which would not move with the image; this "
                "augmentation is for images and their classes: pass these alone, augmentation(images, labels)"
            )


def in_range(images: Tensor) -> Tensor:
    """Return `images`, clamped if they overshoot [0, 1] as an interpolation does.

    Args:
        images: `(B, C, H, W)`, floating point. On a GPU they are returned as they are.

    Raises:
        ValueError: values further outside, NaN or infinities.
    """
    if images.is_cuda or images.numel() == 0 or bool(images_in_range(images)):
        return images
    clamped = images.clamp(0, 1)
    excess = (images.detach() - clamped.detach()).abs().flatten(1)
    # Comparisons with NaN are false.
    if not bool((excess.amax(1) <= OVERSHOOT).all() & (excess.mean(1) <= MEAN_OVERSHOOT).all()):
        raise_for_values(images, advice="put the augmentation before v2.Normalize")
    return clamped


def like(augmented: Tensor, images: Tensor) -> Tensor:
    """Return `augmented` as a `tv_tensors.Image` if `images` is one."""
    kinds = _tv_tensors()
    is_image = kinds is not None and isinstance(images, kinds.Image)
    return kinds.wrap(augmented, like=images) if is_image else augmented


def _tv_tensors() -> Any:
    """Return torchvision's tensor classes, if it is imported at all: otherwise none of its tensors exist."""
    return sys.modules.get("torchvision.tv_tensors")


def _is_spatial(value: object, images: Tensor) -> bool:
    """Return whether `value` is an image, or an annotation with positions in one."""
    kinds, pictures = _tv_tensors(), sys.modules.get("PIL.Image")
    if kinds is not None and isinstance(value, kinds.TVTensor):
        return True
    if pictures is not None and isinstance(value, pictures.Image):
        return True
    # A mask or an image without a class of its own. Labels have less axes: `(K,)` beside an image, `(B, K)` of a batch.
    if not isinstance(value, Tensor | np.ndarray) or len(value.shape) < images.ndim - 1:
        return False
    shape = tuple(value.shape)
    return tuple(images.shape[-2:]) in (shape[-2:], shape[-3:-1])
