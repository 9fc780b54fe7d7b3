"""The warp-and-colour operation in PyTorch: one bilinear gather, then one affine map of each pixel's channels.

Conventions (pinned by `tests/test_ops.py`):

- Pixel centres are at integer + 1/2; coordinates are pixels from the image's centre, `x` to the right and `y` down,
  in the order `(x, y)`. In PyTorch's terms this is `align_corners=False`.
- `inverse_map` takes an *output* position to the *input* position that is read there.
- Positions outside the image read zero by default; colour comes after the warp, so it applies to that fill too.
"""

from __future__ import annotations

from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PaddingMode = Literal["zeros", "border", "reflection"]


def warp_color(
    images: Tensor,
    *,
    inverse_map: Tensor | None = None,
    color_matrix: Tensor | None = None,
    padding_mode: PaddingMode = "zeros",
) -> Tensor:
    """Warp each image by its own affine map and recolour it by its own matrix.

    Args:
        images: `(B, C, H, W)`, floating point.
        inverse_map: `(B, 3, 3)` affine maps from output to input positions, in pixels from the centre; None: no warp.
        color_matrix: `(B, C, C + 1)`; a pixel `s` becomes `M[:, :C] @ s + M[:, C]`; None: colours stay.
        padding_mode: what is read outside the image.

    Returns:
        `(B, C, H, W)` in the dtype and memory format of `images`. Nothing is clamped.

    The arithmetic is float32, or float64 where an argument is. Gradients: images yes, parameters yes, second order no.
    """
    matrices = [m for m in (inverse_map, color_matrix) if m is not None]
    if not matrices or images.numel() == 0:
        return images
    compute = reduce(torch.promote_types, (m.dtype for m in matrices), torch.promote_types(images.dtype, torch.float32))
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    out = images.to(compute)
    with torch.autocast(device_type=images.device.type, enabled=False):
        if inverse_map is not None:
            out = _warp(out, inverse_map.to(compute), padding_mode)
        if color_matrix is not None:
            out = _recolor(out, color_matrix.to(compute))
    out = out.to(images.dtype)
    return out.contiguous(memory_format=torch.channels_last) if channels_last else out


def _warp(images: Tensor, inverse_map: Tensor, padding_mode: PaddingMode) -> Tensor:
    height, width = images.shape[-2:]
    # Pixel units to PyTorch's [-1, 1]: D^-1 M D with D = diag(width / 2, height / 2, 1).
    # Made on the device: `new_tensor` of a list copies from the host and waits for it.
    to_pixels = torch.stack([images.new_full((), size) for size in (width / 2, height / 2, 1.0)])
    theta = inverse_map[:, :2] * to_pixels / to_pixels[:2, None]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)


def _recolor(images: Tensor, color_matrix: Tensor) -> Tensor:
    batch, channels, height, width = images.shape
    if channels == 1:
        return torch.addcmul(color_matrix[:, :, 1:, None], color_matrix[:, :, :1, None], images)
    flat = images.reshape(batch, channels, height * width)
    return torch.baddbmm(color_matrix[:, :, channels:], color_matrix[:, :, :channels], flat).view_as(images)
