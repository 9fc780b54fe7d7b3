"""Elastic: a smooth displacement of each pixel, from random or learned vectors at the points of a coarse grid.

The field between the points is their uniform cubic B-spline (free-form deformation: Rueckert et al., IEEE TMI 18,
1999), so no pixel moves further than the largest of them. As an augmentation: Simard et al., ICDAR 2003.

| parameter | unit | direction of positive values |
|---|---|---|
| displacement_x_r_c, displacement_y_r_c | fraction of width, height | content moves right, down near point (r, c) |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hard_aug.ops import warp_color
from hard_aug.ops.warp_color import PaddingMode
from hard_aug.ops.warp_color.checks import check_padding_mode
from hard_aug.transforms.base import Context, DisplacementTransform, Parameter
from hard_aug.transforms.settings import check_pair

FEWEST_POINTS = 4


class Elastic(DisplacementTransform):
    """Displacements inside a symmetric range. In `Compose` it joins the gather of maps that stand before it.

    Args:
        magnitude: largest displacement of a control point, as a fraction of the width and of the height.
        control: points on each axis, or (rows, columns), at least 4: with as many points as that, one polynomial
            serves the whole image; each further one adds a bend. Twice their product is the number of parameters.
        padding_mode: what lies outside the image: "zeros", "border" or "reflection".

    `u = 0` is the identity. All points moved alike are a translation.

    Raises:
        ValueError: a magnitude that is not positive, fewer than 4 points; at a call, more points than pixels.

    Gradients: images yes, parameters yes, second order no.
    """

    def __init__(
        self, *, magnitude: float = 0.1, control: int | tuple[int, int] = 5, padding_mode: PaddingMode = "zeros"
    ) -> None:
        if not (magnitude > 0 and math.isfinite(magnitude)):
            raise ValueError(f"magnitude={magnitude}: wanted a positive fraction of the image")
        rows, columns = check_pair(control=control)
        if min(rows, columns) < FEWEST_POINTS:
            raise ValueError(f"control={control}: a cubic spline wants at least {FEWEST_POINTS} points on each axis")
        check_padding_mode(padding_mode)
        self.control = (rows, columns)
        self.padding_mode: PaddingMode = padding_mode
        self.spec = tuple(
            Parameter(
                f"displacement_{axis}_{row}_{column}",
                -magnitude,
                magnitude,
                0.0,
                f"fraction of {length}",
                block="elastic",
            )
            for axis, length in (("x", "width"), ("y", "height"))
            for row in range(rows)
            for column in range(columns)
        )

    @property
    def bounded(self) -> bool:
        return True

    def displacement(self, u: Tensor, height: int, width: int) -> Tensor:
        fraction = torch.stack(tuple(self.decode(u).values()), dim=1).view(-1, 2, *self.control)
        pixels = torch.stack([fraction.new_full((), -float(size)) for size in (width, height)])
        return fraction * pixels[:, None, None]  # where content moves right, what is read lies to the left

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        displacement = self.displacement(u, *images.shape[-2:])
        return warp_color(images, displacement=displacement, padding_mode=self.padding_mode)
