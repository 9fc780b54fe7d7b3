"""The warp-and-colour operation in PyTorch: one bilinear gather, then one affine map of each pixel's channels.

Conventions (pinned by `tests/test_ops.py`):

- Pixel centres are at integer + 1/2; coordinates are pixels from the image's centre, `x` to the right and `y` down,
  in the order `(x, y)`. In PyTorch's terms this is `align_corners=False`.
- `inverse_map` takes an *output* position to the *input* position that is read there. With
  `projective=True` a position whose third coordinate is not positive lies behind the viewer, outside the image.
- `displacement` is added to the output position before the map: `input = M(q + d(q))`. It is given at the points of a
  coarse grid, and `d` is their uniform cubic B-spline over the image (free-form deformation: Rueckert et al., 1999).
  The basis is positive and sums to one, so no pixel moves further than the largest control value.
- Positions outside the image read zero by default; colour comes after the warp, so it applies to that fill too.
"""

from __future__ import annotations

from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PaddingMode = Literal["zeros", "border", "reflection"]
SMALLEST_DEPTH = 1e-3
#: In PyTorch's coordinates, where the image ends at 1.
OUTSIDE = 3.0


def warp_color(
    images: Tensor,
    *,
    inverse_map: Tensor | None = None,
    displacement: Tensor | None = None,
    color_matrix: Tensor | None = None,
    padding_mode: PaddingMode = "zeros",
    projective: bool = False,
) -> Tensor:
    """Warp each image by its own map and displacement and recolour it by its own matrix.

    Args:
        images: `(B, C, H, W)`, floating point.
        inverse_map: `(B, 3, 3)` affine or projective maps from output to input positions, in pixels from the centre;
            None: the identity.
        displacement: `(B, 2, h, w)` pixels in x and in y, at least 4 control points on each axis; None: none.
        color_matrix: `(B, C, C + 1)`; a pixel `s` becomes `M[:, :C] @ s + M[:, C]`; None: colours stay.
        padding_mode: what is read outside the image.
        projective: whether the maps' last rows count. Otherwise they are taken to be (0, 0, 1), which is faster.

    Returns:
        `(B, C, H, W)` in the dtype and memory format of `images`. Nothing is clamped.

    The arithmetic is float32, or float64 where an argument is. Gradients: images yes, parameters yes, second order no.
    """
    matrices = [m for m in (inverse_map, displacement, color_matrix) if m is not None]
    if not matrices or images.numel() == 0:
        return images
    compute = reduce(torch.promote_types, (m.dtype for m in matrices), torch.promote_types(images.dtype, torch.float32))
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    out = images.to(compute)
    with torch.autocast(device_type=images.device.type, enabled=False):
        if inverse_map is not None or displacement is not None:
            out = _warp(out, inverse_map, displacement, projective, padding_mode)
        if color_matrix is not None:
            out = _recolor(out, color_matrix.to(compute))
    out = out.to(images.dtype)
    return out.contiguous(memory_format=torch.channels_last) if channels_last else out


def control_to_pixels(control: Tensor, height: int, width: int) -> Tensor:
    """The uniform cubic B-spline of a control grid `(B, D, h, w)` at the pixel centres, `(B, D, H, W)`.

    Raises:
        ValueError: fewer than 4 control points on an axis, or more than pixels.
    """
    rows, columns = control.shape[-2:]
    if min(rows, columns) < 4:
        raise ValueError(f"a control grid of {rows} x {columns}: a cubic B-spline wants at least 4 x 4 points")
    if rows > height or columns > width:
        raise ValueError(
            f"a control grid of {rows} x {columns} is larger than the images, {height} x {width}; use fewer points"
        )
    return _spline_basis(rows, height, control) @ control @ _spline_basis(columns, width, control).mT


def _spline_basis(points: int, pixels: int, like: Tensor) -> Tensor:
    """`(pixels, points)`: the weight of each control point at each pixel centre. Control point 1 lies at the edge."""
    place = (torch.arange(pixels, dtype=like.dtype, device=like.device) + 0.5) * ((points - 3) / pixels)
    distance = (place[:, None] + 1 - torch.arange(points, dtype=like.dtype, device=like.device)).abs()
    near = 2 / 3 - distance.square() * (1 - distance / 2)
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)


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
    theta = None
    if inverse_map is not None:  # pixel units to PyTorch's [-1, 1]: D^-1 M D with D = diag(width / 2, height / 2, 1)
        theta = inverse_map.to(images.dtype) * to_pixels / to_pixels[:, None]
    if theta is not None and displacement is None and not projective:
        grid = F.affine_grid(theta[:, :2], list(images.shape), align_corners=False)
    else:
        identity = torch.eye(2, 3, dtype=images.dtype, device=images.device)[None]
        grid = F.affine_grid(identity, [1, 1, height, width], align_corners=False)
        if displacement is not None:
            moved = control_to_pixels(displacement.to(images.dtype), height, width)
            grid = grid + moved.permute(0, 2, 3, 1) / to_pixels[:2]
        if theta is not None:
            grid = grid.flatten(1, 2).expand(batch, -1, -1) @ theta[:, :, :2].mT + theta[:, None, :, 2]
            grid = _projected(grid) if projective else grid[..., :2]
            grid = grid.view(batch, height, width, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)


def _projected(homogeneous: Tensor) -> Tensor:
    """`(..., 2)` from `(..., 3)`; what lies behind the viewer is put outside the image."""
    depth = homogeneous[..., 2:]
    visible = depth > SMALLEST_DEPTH
    return torch.where(visible, homogeneous[..., :2] / torch.where(visible, depth, 1.0), OUTSIDE)


def _recolor(images: Tensor, color_matrix: Tensor) -> Tensor:
    batch, channels, height, width = images.shape
    if channels == 1:
        return torch.addcmul(color_matrix[:, :, 1:, None], color_matrix[:, :, :1, None], images)
    flat = images.reshape(batch, channels, height * width)
    return torch.baddbmm(color_matrix[:, :, channels:], color_matrix[:, :, :channels], flat).view_as(images)
