"""PyTorch reference of the maps and the colour matrix: runs on the CPU, and the kernels are tested against it.

The README beside this file has the formulas and their sources.
"""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor

from hard_aug.ops.compose.plan import LOGARITHMIC, SLOTS, Plan
from hard_aug.ops.elementwise import unit_interval

Values = dict[str, Tensor]


def compose(u: Tensor, plan: Plan, *, height: int, width: int, channels: int) -> tuple[Tensor | None, Tensor | None]:
    """Compute the inverse map and the colour matrix; see `hard_aug.ops.compose.compose`."""
    values = _decode(u, plan)
    makers = {"affine": affine_inverse, "perspective": perspective_inverse}
    maps = [makers[stage](values, height=height, width=width, focal_length=plan.focal_length) for stage in plan.maps]
    inverse_map = reduce(matrix_product, maps) if maps else None
    return inverse_map, color_matrix(values, channels) if plan.colors else None


def _decode(u: Tensor, plan: Plan) -> Values:
    """Decode `u` to values `(B,)` by name; parameters that are switched off have their identity value."""
    fraction = unit_interval(u)
    zero, one = fraction.new_zeros(len(u)), fraction.new_ones(len(u))
    values: Values = {}
    for name, column, centre, half in zip(SLOTS, plan.columns, plan.centres, plan.halves, strict=True):
        if column < 0:
            values[name] = one if name in LOGARITHMIC else zero
            continue
        value = centre + half * fraction[:, column]
        values[name] = value.exp() if name in LOGARITHMIC else value
    return values


def affine_inverse(values: Values, *, height: int, width: int, focal_length: float) -> Tensor:
    """Return `(B, 3, 3)`, the inverse of `p -> R H S p + t`."""
    angle, shear = torch.deg2rad(values["rotation"]), values["shear"]
    inverse_x, inverse_y = 1 / values["scale_x"], 1 / values["scale_y"]
    x, y = values["translation_x"] * width, values["translation_y"] * height
    cos, sin = angle.cos(), angle.sin()
    # (R H S)^-1 = S^-1 H^-1 R^T, and the offset is -(R H S)^-1 t.
    a, b = (cos + shear * sin) * inverse_x, (sin - shear * cos) * inverse_x
    c, d = -sin * inverse_y, cos * inverse_y
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    rows = (a, b, -(a * x + b * y), c, d, -(c * x + d * y), zero, zero, one)
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def perspective_inverse(values: Values, *, height: int, width: int, focal_length: float) -> Tensor:
    """Return `(B, 3, 3)`, the adjugate of the homography of a plane tilted before a camera, over squared distance."""
    distance = focal_length * max(height, width)
    tilt_x, tilt_y = torch.deg2rad(values["tilt_x"]), torch.deg2rad(values["tilt_y"])
    sin_x, cos_x, sin_y, cos_y = tilt_x.sin(), tilt_x.cos(), tilt_y.sin(), tilt_y.cos()
    zero = torch.zeros_like(sin_x)
    rows = (
        cos_x, -sin_x * sin_y, zero,
        zero, cos_y, zero,
        -cos_x * sin_y / distance, sin_x / distance, cos_x * cos_y,
    )  # fmt: skip
    return torch.stack(rows, dim=1).view(-1, 3, 3)


def color_matrix(values: Values, channels: int) -> Tensor:
    """Return `(B, C, C + 1)`: contrast about 1/2, then brightness, saturation and hue about the grey axis."""
    contrast = values["contrast"]
    offset = 0.5 * (1 - contrast) + values["brightness"]
    if channels == 1:
        return torch.stack((contrast, offset), dim=1)[:, None]
    # On the grey axis: contrast alone. Across it: also saturation, and rotation by the hue (Rodrigues' formula).
    strength = contrast * values["saturation"]
    angle = torch.deg2rad(values["hue"])
    across, turn = strength * angle.cos(), strength * angle.sin() / math.sqrt(3)
    grey = (contrast - across) / 3
    same, before, after = grey + across, grey - turn, grey + turn
    rows = (
        same, before, after, offset,
        after, same, before, offset,
        before, after, same, offset,
    )  # fmt: skip
    return torch.stack(rows, dim=1).view(-1, 3, 4)


def matrix_product(first: Tensor, second: Tensor) -> Tensor:
    """Multiply `(B, i, k)` by `(B, k, j)` without `@`, which may use TensorFloat-32, a tenth of a pixel off."""
    return (first[:, :, :, None] * second[:, None]).sum(2)
