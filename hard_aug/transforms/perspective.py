"""Perspective: the image as a plane that is turned before a pinhole camera.

The plane stands at the distance f = `focal_length` times the longer side, facing the camera, and turns about its own
horizontal and vertical axes. Its point `(x, y)`, in pixels from the centre, goes to `(x', y', z') = R (x, y, 0)` and is
seen at `f (x', y') / (f + z')`. With the six parameters of `Affine` these two make all eight of a homography (Hartley
and Zisserman, Multiple View Geometry, 2004, section 2.3).

| parameter | unit | direction of positive values |
|---|---|---|
| tilt_x | degrees about the horizontal axis | the upper edge recedes: it gets shorter |
| tilt_y | degrees about the vertical axis | the right edge recedes |
"""

from __future__ import annotations

import math

from torch import Tensor

from hard_aug.ops import warp_color
from hard_aug.ops.compose import compose_map
from hard_aug.ops.warp_color import PaddingMode
from hard_aug.ops.warp_color.checks import check_padding_mode
from hard_aug.transforms.base import Context, Parameter, SpatialTransform, plan_of

LARGEST_TILT = 60.0


class Perspective(SpatialTransform):
    """Tilts inside symmetric ranges.

    Args:
        tilt: largest angle in degrees about each axis, up to 60.
        focal_length: distance of the camera in units of the longer side of the image; the nearer, the stronger.
        padding_mode: what lies outside the image: "zeros", "border" or "reflection".

    `u = 0` is the identity.

    Raises:
        ValueError: a tilt outside (0, 60], or a camera so near that a tilted plane would reach it.

    Gradients: images yes, parameters yes, second order no.
    """

    projective = True

    def __init__(self, *, tilt: float = 30.0, focal_length: float = 2.0, padding_mode: PaddingMode = "zeros") -> None:
        if tilt is None or not 0 < tilt <= LARGEST_TILT:
            raise ValueError(f"tilt={tilt}: wanted degrees in (0, {LARGEST_TILT:g}]")
        # A corner comes nearer by at most half a side times the sine of each of the two angles.
        nearest = math.sin(math.radians(tilt))
        if not (focal_length > nearest and math.isfinite(focal_length)):
            raise ValueError(
                f"focal_length={focal_length}: at tilt={tilt} the plane would reach the camera; wanted more than "
                f"{nearest:.3g}"
            )
        check_padding_mode(padding_mode)
        self.spec = tuple(Parameter(f"tilt_{axis}", -tilt, tilt, 0.0, "degrees", block="perspective") for axis in "xy")
        self.plan = plan_of("perspective", self.spec, focal_length=focal_length)
        self.focal_length = focal_length
        self.padding_mode: PaddingMode = padding_mode

    @property
    def bounded(self) -> bool:
        return True

    def inverse_map(self, u: Tensor, height: int, width: int) -> Tensor:
        self._check_parameters(u)
        return compose_map(u, self.plan, height=height, width=width)

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        inverse_map = self.inverse_map(u, *images.shape[-2:])
        return warp_color(images, inverse_map=inverse_map, padding_mode=self.padding_mode, projective=True)
