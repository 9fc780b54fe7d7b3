"""The warp-and-colour operation in PyTorch: the truth that the kernels are held against, and what runs on the CPU.

See `hard_aug.ops.warp_color` for the conventions and the README beside this file for the mathematics.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hard_aug.ops.formats import memory_format_of

PaddingMode = Literal["zeros", "border", "reflection"]
SMALLEST_DEPTH = 1e-3
#: In PyTorch's coordinates, where the image ends at 1: where positions are that are behind the viewer or no numbers.
OUTSIDE = 3.0


def warp_color(
    images: Tensor,
    *,
    inverse_map: Tensor | None = None,
    displacement: Tensor | None = None,
    color_matrix: Tensor | None = None,
    partner: Tensor | None = None,
    partner_weight: Tensor | None = None,
    normalization: Tensor | None = None,
    padding_mode: PaddingMode = "zeros",
    projective: bool = False,
    clamp: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, ...]:
    """See `hard_aug.ops.warp_color.warp_color`: the images, and the normalised ones. Arguments are checked there."""
    compute = compute_dtype(images, inverse_map, displacement, color_matrix, partner_weight, normalization)
    dtype = output_dtype(images, dtype)
    with torch.autocast(device_type=images.device.type, enabled=False):
        out = _unit(images, compute)
        if partner is not None and partner_weight is not None:
            weight = partner_weight.to(compute)[:, None, None, None]
            out = torch.lerp(out, _unit(partner, compute), weight)
        if (inverse_map is not None or displacement is not None) and out.numel():
            out = _warp(out, inverse_map, displacement, projective, padding_mode)
        if color_matrix is not None and out.numel():
            out = _recolor(out, color_matrix.to(compute))
        if clamp:
            out = clamp_with_gradient(out)
        outputs = [out]
        for mean, std in () if normalization is None else normalization.to(compute):
            outputs.append((out - mean[:, None, None]) / std[:, None, None])
    return tuple(output.to(dtype).contiguous(memory_format=memory_format_of(images)) for output in outputs)


def compute_dtype(images: Tensor, *parameters: Tensor | None) -> torch.dtype:
    """float32, or float64 where an argument is."""
    types = [tensor.dtype for tensor in (images, *parameters) if tensor is not None and tensor.is_floating_point()]
    return reduce(torch.promote_types, types, torch.float32)


def output_dtype(images: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """What is asked for, or else the images' own; float32 for bytes."""
    if dtype is not None:
        return dtype
    return images.dtype if images.is_floating_point() else torch.float32


class _Clamp(torch.autograd.Function):
    """Clamp to [0, 1] and let the gradient pass as if nothing had been clamped, at any order."""

    @staticmethod
    def forward(images: Tensor) -> Tensor:
        return images.clamp(0, 1)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


def clamp_with_gradient(images: Tensor) -> Tensor:
    """Clamp to [0, 1]; the gradient passes as if nothing had been clamped, so saturated pixels still learn."""
    clamped: Tensor = _Clamp.apply(images)
    return clamped


def control_to_pixels(control: Tensor, height: int, width: int) -> Tensor:
    """The uniform cubic B-spline of a control grid `(B, D, h, w)` at the pixel centres, `(B, D, H, W)`.

    Raises:
        ValueError: fewer than 4 control points on an axis, or more than pixels.
    """
    check_control_grid(control, height, width)
    rows, columns = control.shape[-2:]
    return spline_basis(rows, height, control) @ control @ spline_basis(columns, width, control).mT


def check_control_grid(control: Tensor, height: int, width: int) -> None:
    """Raise `ValueError` for fewer than 4 control points on an axis, or more than pixels."""
    rows, columns = control.shape[-2:]
    if min(rows, columns) < 4:
        raise ValueError(f"a control grid of {rows} x {columns}: a cubic B-spline wants at least 4 x 4 points")
    if rows > height or columns > width:
        raise ValueError(
            f"a control grid of {rows} x {columns} is larger than the images, {height} x {width}; use fewer points"
        )


def spline_basis(points: int, pixels: int, like: Tensor) -> Tensor:
    """`(pixels, points)`: the weight of each control point at each pixel centre. Control point 1 lies at the edge."""
    place = (torch.arange(pixels, dtype=like.dtype, device=like.device) + 0.5) * ((points - 3) / pixels)
    distance = (place[:, None] + 1 - torch.arange(points, dtype=like.dtype, device=like.device)).abs()
    near = 2 / 3 - distance.square() * (1 - distance / 2)
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def _unit(images: Tensor, compute: torch.dtype) -> Tensor:
    """Bytes become shares of 255."""
    return images.to(compute) if images.is_floating_point() else images.to(compute) / 255


def _warp(
    images: Tensor,
    inverse_map: Tensor | None,
    displacement: Tensor | None,
    projective: bool,
    padding_mode: PaddingMode,
) -> Tensor:
    batch, _, height, width = images.shape
    # Made on the device: `new_tensor` of a list copies from the host and waits for it.
    to_pixels = torch.stack([images.new_full((), size) for size in (width / 2, height / 2, 1.0)])
    x, y = (_pixel_centres(size, images) for size in (width, height))
    theta: Tensor | None = None
    if inverse_map is not None:  # pixel units to PyTorch's [-1, 1]: D^-1 M D with D = diag(width / 2, height / 2, 1)
        theta = inverse_map.to(images.dtype) * to_pixels / to_pixels[:, None]
        theta = theta if projective else theta[:, :2]
        finite = theta.isfinite().all(2).all(1)[:, None, None]
        theta = torch.where(finite, theta, _nowhere(images)[: theta.shape[1]])  # nothing comes back as 0 * NaN then
    outside: Tensor | None = None
    if displacement is None and theta is not None:
        # A part for each column and a part for each row: one sum of the two is all that touches every pixel.
        a, b, c = theta[:, None, None].unbind(-1)
        grid = a * x[:, None] + (b * y[:, None, None] + c)
    else:
        grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1)[None]
        if displacement is not None:
            control = displacement.to(images.dtype)
            finite = control.isfinite()
            moved = control_to_pixels(torch.where(finite, control, 0.0), height, width).permute(0, 2, 3, 1)
            grid = grid + moved / to_pixels[:2]
            # The basis is positive: a pixel is touched where the spline of the points that are no numbers is not zero.
            touched = control_to_pixels((~finite).to(control.dtype), height, width) > 0
            outside = touched.any(1)[..., None]
        if theta is not None:
            grid = (grid.flatten(1, 2) @ theta[:, :, :2].mT + theta[:, None, :, 2]).view(batch, height, width, -1)
    if theta is not None and projective:
        grid = _projected(grid)
    if projective or outside is not None:
        finite = grid.isfinite().all(-1, keepdim=True)
        grid = torch.where(finite if outside is None else finite & ~outside, grid, OUTSIDE)
    grid = grid.expand(batch, -1, -1, -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)


def _pixel_centres(size: int, images: Tensor) -> Tensor:
    """`(size,)` in PyTorch's [-1, 1]; without rounding where the size is a power of two."""
    return (torch.arange(size, dtype=images.dtype, device=images.device) + (0.5 - size / 2)) / (size / 2)


def _nowhere(images: Tensor) -> Tensor:
    """`(3, 3)`, the map that takes every position outside the image, in PyTorch's coordinates."""
    nowhere = images.new_zeros(3, 3)
    nowhere[:2, 2] = OUTSIDE
    nowhere[2:, 2] = 1.0  # a slice is filled on the device; a single element would be copied there, and waited for
    return nowhere


def _projected(homogeneous: Tensor) -> Tensor:
    """`(..., 2)` from `(..., 3)`; what lies behind the viewer is put outside the image."""
    depth = homogeneous[..., 2:]
    visible = (depth > SMALLEST_DEPTH) & (depth < math.inf)
    return torch.where(visible, homogeneous[..., :2] / torch.where(visible, depth, 1.0), OUTSIDE)


def _recolor(images: Tensor, color_matrix: Tensor) -> Tensor:
    batch, channels, height, width = images.shape
    if channels == 1:
        return torch.addcmul(color_matrix[:, :, 1:, None], color_matrix[:, :, :1, None], images)
    flat = images.reshape(batch, channels, height * width)
    return torch.baddbmm(color_matrix[:, :, channels:], color_matrix[:, :, :channels], flat).view_as(images)
