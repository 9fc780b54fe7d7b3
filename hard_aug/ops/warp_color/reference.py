"""PyTorch reference of the warp-and-colour operation: runs on the CPU, and the kernels are tested against it.

See `hard_aug.ops.warp_color` for the conventions and the README beside this file for the mathematics.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hard_aug.ops.elementwise import clamp_with_gradient
from hard_aug.ops.memory_formats import memory_format_of

PaddingMode = Literal["zeros", "border", "reflection"]
#: Positions with a smaller third coordinate are behind the viewer.
MIN_DEPTH = 1e-3
#: Coordinate given to positions behind the viewer or not finite; in PyTorch's coordinates the image ends at 1.
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
    """Return the output images and up to two normalised copies; see `hard_aug.ops.warp_color.warp_color`.

    Arguments are not checked here.

    Args:
        images: `(B, C, H, W)`, floating point or uint8.
        inverse_map: see `hard_aug.ops.warp_color.warp_color`.
        displacement: as `inverse_map`.
        color_matrix: as `inverse_map`.
        partner: `(B, C, H, W)` of the same type, mixed into the images before the warp: `(1 - w) image + w partner`;
            None: no mixing.
        partner_weight: `(B,)`, w.
        normalization: `(N, 2, C)`, N of 1 or 2: mean and standard deviation of each channel, constants.
        padding_mode: as `inverse_map`.
        projective: as `inverse_map`.
        clamp: as `inverse_map`.
        dtype: as `inverse_map`.

    Returns:
        The images, and `(images - mean) / std` for each normalisation, all `(B, C, H, W)` of one type.
    """
    compute = compute_dtype(images, inverse_map, displacement, color_matrix, partner_weight, normalization)
    dtype = output_dtype(images, dtype)
    with torch.autocast(device_type=images.device.type, enabled=False):
        out = _to_unit_range(images, compute)
        if partner is not None and partner_weight is not None:
            weight = partner_weight.to(compute)[:, None, None, None]
            out = torch.lerp(out, _to_unit_range(partner, compute), weight)
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
    """Return float32, or float64 if an argument has that type."""
    types = [tensor.dtype for tensor in (images, *parameters) if tensor is not None and tensor.is_floating_point()]
    return reduce(torch.promote_types, types, torch.float32)


def output_dtype(images: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """Return `dtype` if given, else the type of the images; float32 for uint8."""
    return dtype or (images.dtype if images.is_floating_point() else torch.float32)


def control_to_pixels(control: Tensor, height: int, width: int) -> Tensor:
    """Evaluate the uniform cubic B-spline of a control grid `(B, D, h, w)` at the pixel centres, `(B, D, H, W)`.

    Raises:
        ValueError: fewer than 4 control points on an axis, or more control points than pixels.
    """
    check_control_grid(control, height, width)
    rows, columns = control.shape[-2:]
    return spline_basis(rows, height, control) @ control @ spline_basis(columns, width, control).mT


def check_control_grid(control: Tensor, height: int, width: int) -> None:
    """Raise `ValueError` for fewer than 4 control points on an axis, or more control points than pixels."""
    rows, columns = control.shape[-2:]
    if min(rows, columns) < 4:
        raise ValueError(f"a control grid of {rows} x {columns}: a cubic B-spline needs at least 4 x 4 points")
    if rows > height or columns > width:
        raise ValueError(
            f"a control grid of {rows} x {columns} is larger than the images, {height} x {width}; use fewer points"
        )


def spline_basis(points: int, pixels: int, like: Tensor) -> Tensor:
    """Return `(pixels, points)`: the weights of the control points at pixel centres; point 1 lies at the edge."""
    position = (torch.arange(pixels, dtype=like.dtype, device=like.device) + 0.5) * ((points - 3) / pixels)
    distance = (position[:, None] + 1 - torch.arange(points, dtype=like.dtype, device=like.device)).abs()
    near = 2 / 3 - distance.square() * (1 - distance / 2)
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def _to_unit_range(images: Tensor, compute: torch.dtype) -> Tensor:
    """Convert to `compute`; uint8 is divided by 255."""
    return images.to(compute) if images.is_floating_point() else images.to(compute) / 255


def _warp(
    images: Tensor,
    inverse_map: Tensor | None,
    displacement: Tensor | None,
    projective: bool,
    padding_mode: PaddingMode,
) -> Tensor:
    batch, _, height, width = images.shape
    # Made on the device: `new_tensor` of a list copies from the host and synchronises with the device.
    to_pixels = torch.stack([images.new_full((), size) for size in (width / 2, height / 2, 1.0)])
    x, y = (_pixel_centres(size, images) for size in (width, height))
    theta: Tensor | None = None
    if inverse_map is not None:  # pixel units to PyTorch's [-1, 1]: D^-1 M D with D = diag(width / 2, height / 2, 1)
        theta = inverse_map.to(images.dtype) * to_pixels / to_pixels[:, None]
        theta = theta if projective else theta[:, :2]
        finite = theta.isfinite().all(2).all(1)[:, None, None]
        theta = torch.where(finite, theta, _map_outside(images)[: theta.shape[1]])  # so no gradient is 0 * NaN
    outside: Tensor | None = None
    if displacement is None and theta is not None:
        # One term for each column and one for each row: their sum is the only operation on every pixel.
        a, b, c = theta[:, None, None].unbind(-1)
        grid = a * x[:, None] + (b * y[:, None, None] + c)
    else:
        grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1)[None]
        if displacement is not None:
            control = displacement.to(images.dtype)
            finite = control.isfinite()
            moved = control_to_pixels(torch.where(finite, control, 0.0), height, width).permute(0, 2, 3, 1)
            grid = grid + moved / to_pixels[:2]
            # The basis is positive: a pixel is affected where the spline of the non-finite points is not zero.
            affected = control_to_pixels((~finite).to(control.dtype), height, width) > 0
            outside = affected.any(1)[..., None]
        if theta is not None:
            grid = (grid.flatten(1, 2) @ theta[:, :, :2].mT + theta[:, None, :, 2]).view(batch, height, width, -1)
    if theta is not None and projective:
        grid = _dehomogenize(grid)
    if projective or outside is not None:
        finite = grid.isfinite().all(-1, keepdim=True)
        grid = torch.where(finite if outside is None else finite & ~outside, grid, OUTSIDE)
    grid = grid.expand(batch, -1, -1, -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)


def _pixel_centres(size: int, images: Tensor) -> Tensor:
    """Return `(size,)` coordinates in PyTorch's [-1, 1]; exact where the size is a power of two."""
    return (torch.arange(size, dtype=images.dtype, device=images.device) + (0.5 - size / 2)) / (size / 2)


def _map_outside(images: Tensor) -> Tensor:
    """Return `(3, 3)`, the map that takes every position outside the image, in PyTorch's coordinates."""
    matrix = images.new_zeros(3, 3)
    matrix[:2, 2] = OUTSIDE
    matrix[2:, 2] = 1.0  # filled on the device; assigning a single element would copy from the host
    return matrix


def _dehomogenize(homogeneous: Tensor) -> Tensor:
    """Convert `(..., 3)` to `(..., 2)`; positions behind the viewer are put outside the image."""
    depth = homogeneous[..., 2:]
    visible = (depth > MIN_DEPTH) & (depth < math.inf)
    return torch.where(visible, homogeneous[..., :2] / torch.where(visible, depth, 1.0), OUTSIDE)


def _recolor(images: Tensor, color_matrix: Tensor) -> Tensor:
    batch, channels, height, width = images.shape
    if channels == 1:
        return torch.addcmul(color_matrix[:, :, 1:, None], color_matrix[:, :, :1, None], images)
    flat = images.reshape(batch, channels, height * width)
    return torch.baddbmm(color_matrix[:, :, channels:], color_matrix[:, :, :channels], flat).view_as(images)
