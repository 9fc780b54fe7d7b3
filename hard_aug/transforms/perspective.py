"""Perspective: the image as a plane that is rotated in front of a pinhole camera.

The plane faces the camera at the distance f = `focal_length` times the longer side and rotates about its own horizontal
and vertical axes. Its point `(x, y)`, in pixels from the centre, moves to `(x', y', z') = R (x, y, 0)` and is projected
to `f (x', y') / (f + z')`. With the six parameters of `Affine`, the two tilts make up the eight of a homography
(Hartley and Zisserman, Multiple View Geometry, 2004, section 2.3).

| parameter | unit | effect of positive values |
|---|---|---|
| tilt_x | degrees about the horizontal axis | the upper edge recedes: it gets shorter |
| tilt_y | degrees about the vertical axis | the right edge recedes |
"""

from __future__ import annotations

import math

from hard_aug.ops.warp_color import PaddingMode
from hard_aug.ops.warp_color.checks import check_padding_mode
from hard_aug.transforms.argument_checks import warn_of_units
from hard_aug.transforms.base import PlannedSpatialTransform
from hard_aug.transforms.spec import Parameter, make_plan

#: Upper limit of the largest tilt, degrees.
MAX_TILT = 60.0


class Perspective(PlannedSpatialTransform):
    """Out-of-plane rotations (tilts) in symmetric ranges. `u = 0` is the identity.

    Gradients: images yes, parameters yes, second order no.

    Args:
        tilt: Largest angle about each axis, degrees, up to 60.
        focal_length: Distance of the camera, in units of the longer image side; a smaller one distorts more.
        padding_mode: Fill outside the image: "zeros", "border" or "reflection".

    Raises:
        ValueError: If the tilt is outside (0, 60], or the camera is so near that a tilted plane would reach it.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Perspective
        >>> transform = Perspective(tilt=20.0)
        >>> transform(torch.rand(2, 3, 8, 8), torch.randn(2, transform.size)).shape
        torch.Size([2, 3, 8, 8])
    """

    projective = True

    def __init__(self, *, tilt: float = 30.0, focal_length: float = 2.0, padding_mode: PaddingMode = "zeros") -> None:
        if tilt is None or not 0 < tilt <= MAX_TILT:
            raise ValueError(f"tilt={tilt}: expected degrees in (0, {MAX_TILT:g}]")
        # A corner approaches the camera by at most half a side times the sine of each of the two angles.
        nearest = math.sin(math.radians(tilt))
        if not (focal_length > nearest and math.isfinite(focal_length)):
            raise ValueError(
                f"focal_length={focal_length}: at tilt={tilt} the plane would reach the camera; expected more than "
                f"{nearest:.3g}"
            )
        check_padding_mode(padding_mode)
        warn_of_units(tilt=tilt, focal_length=focal_length)
        tilt, focal_length = float(tilt), float(focal_length)
        self.tilt, self.focal_length, self.padding_mode = tilt, focal_length, padding_mode
        self.spec = tuple(
            Parameter(f"tilt_{axis}", -tilt, tilt, 0.0, "degrees", block="perspective", group="tilt") for axis in "xy"
        )
        self.plan = make_plan("perspective", self.spec, focal_length=focal_length)
