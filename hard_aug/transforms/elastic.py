"""Elastic: a smooth displacement of each pixel, from random or learned vectors at the points of a coarse grid.

Between the points the field is their uniform cubic B-spline (free-form deformation: Rueckert et al., IEEE TMI 18,
1999), so no pixel moves further than the largest vector. As an augmentation: Simard et al., ICDAR 2003.

| parameter | unit | effect of positive values |
|---|---|---|
| displacement_x_r_c, displacement_y_r_c | fraction of width, height | content moves right, down near point (r, c) |
"""

from __future__ import annotations

import torch
from torch import Tensor

from hard_aug.ops import warp_color
from hard_aug.ops.warp_color import PaddingMode
from hard_aug.ops.warp_color.checks import check_padding_mode
from hard_aug.transforms.argument_checks import check_pair, warn_of_units
from hard_aug.transforms.base import DisplacementTransform
from hard_aug.transforms.context import Context
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.checks import check_positive_number

#: Smallest number of control points on each axis: the number that a cubic spline has on one segment.
MIN_POINTS = 4


class Elastic(DisplacementTransform):
    """Elastic deformations with displacements in a symmetric range. `u = 0` is the identity.

    Moving all control points alike is a translation. In `Compose`, it shares the gather of the maps directly before
    it. Gradients: images yes, parameters yes, second order no.

    Args:
        magnitude: Largest displacement of a control point, as a fraction of the width and of the height.
        control: Control points on each axis, or (rows, columns), at least 4. Four points give one cubic polynomial
            over the whole image; each further point adds a bend. The number of parameters is `2 * rows * columns`.
        padding_mode: Fill outside the image: "zeros", "border" or "reflection".

    Raises:
        ValueError: If the magnitude is not positive or there are fewer than 4 points; at a call, if there are more
            points than pixels.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Elastic
        >>> transform = Elastic(magnitude=0.05, control=4)
        >>> transform.size
        32
        >>> transform(torch.rand(2, 3, 8, 8), torch.randn(2, transform.size)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self, *, magnitude: float = 0.1, control: int | tuple[int, int] = 5, padding_mode: PaddingMode = "zeros"
    ) -> None:
        check_positive_number(magnitude=magnitude)
        warn_of_units(magnitude=magnitude)
        magnitude = float(magnitude)
        rows, columns = check_pair(control=control)
        if min(rows, columns) < MIN_POINTS:
            raise ValueError(f"control={control}: a cubic spline needs at least {MIN_POINTS} points on each axis")
        check_padding_mode(padding_mode)
        self.magnitude = magnitude
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
                group="elastic",
            )
            for axis, length in (("x", "width"), ("y", "height"))
            for row in range(rows)
            for column in range(columns)
        )

    @property
    def bounded(self) -> bool:
        """See `Transform.bounded`."""
        return True

    def displacement(self, u: Tensor, height: int, width: int) -> Tensor:
        """See `DisplacementTransform.displacement`."""
        rows, columns = self.control
        if height < rows or width < columns:
            raise ValueError(
                f"Elastic(control={self.control}) requires images of at least {rows} x {columns} pixels, got "
                f"{height} x {width}; use fewer control points, or leave it out: menu(elastic=None)"
            )
        fraction = torch.stack(tuple(self.decode(u).values()), dim=1).view(-1, 2, *self.control)
        pixels = torch.stack([fraction.new_full((), -float(size)) for size in (width, height)])
        return fraction * pixels[:, None, None]  # content moves right if the sampled position lies to the left

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.apply`."""
        displacement = self.displacement(u, *images.shape[-2:])
        return warp_color(images, displacement=displacement, padding_mode=self.padding_mode)
