"""Menu: all transforms together, in wide ranges, for callers that do not know which one is right.

A teacher tolerates only a part of such ranges, and which part nobody knows beforehand: see `hard_aug.calibrate`, which
measures it, and `hard_aug.policies.GroupBandit`, which uses few groups of parameters an image.
"""

from __future__ import annotations

from hard_aug.ops.warp_color import PaddingMode
from hard_aug.transforms.affine import Affine
from hard_aug.transforms.base import Transform
from hard_aug.transforms.color import Color
from hard_aug.transforms.compose import Compose
from hard_aug.transforms.elastic import Elastic
from hard_aug.transforms.filter import Filter
from hard_aug.transforms.operations import Operations
from hard_aug.transforms.perspective import Perspective

#: Distance of the perspective's camera, in units of the longer side: near, so that a tilt distorts.
FOCAL_LENGTH = 1.0


class Menu(Compose):
    """What `menu` returns: a composition of more than any teacher tolerates, whose ranges are to be calibrated.

    It does what a `Compose` does; `HardAugmenter` chooses its policy by it.

    Args:
        stages: The transforms.

    Example:
        >>> from hard_aug.transforms import menu
        >>> type(menu(elastic=None)).__name__
        'Menu'
    """


def menu(
    *,
    translation: float | None = 0.3,
    rotation: float | None = 180.0,
    scale: float | None = 2.0,
    shear: float | None = 0.5,
    tilt: float | None = 45.0,
    elastic: float | None = 0.3,
    brightness: float | None = 0.5,
    contrast: float | None = 3.0,
    saturation: float | None = 3.0,
    hue: float | None = 180.0,
    gamma: float | None = 3.0,
    sharpness: float | None = 3.0,
    blur: float | None = 3.0,
    noise: float | None = 0.3,
    posterize: int | None = None,
    equalize: float | None = None,
    autocontrast: float | None = None,
    jpeg: int | None = None,
    padding_mode: PaddingMode = "zeros",
) -> Menu:
    """Return a composition of `Affine`, `Perspective`, `Elastic`, `Color` and `Filter`, and of `Operations` if wished.

    It has 66 parameters in 14 groups, and is for images with 1 or 3 channels; on those with 1, saturation and hue are
    the identity. All maps and the displacement share one gather, and the colours one matrix. A range of None switches
    that part off. The operations, off by default, have one group each and come last, as in a file; they pass no
    gradient to their parameters, and require torchvision.

    Args:
        translation: Largest shift, as a fraction of the width and of the height.
        rotation: Largest angle, degrees; 180 is a full turn.
        scale: Largest factor, above 1; width and height scale independently.
        shear: Largest tangent of the shear angle.
        tilt: Largest angle out of the image plane, degrees, up to 60.
        elastic: Largest displacement of a control point, as a fraction of the width and of the height.
        brightness: Largest offset, in intensity (images are in [0, 1]).
        contrast: Largest factor, above 1.
        saturation: Largest factor, above 1.
        hue: Largest rotation about the grey axis, degrees.
        gamma: Largest exponent, above 1.
        sharpness: Largest strength.
        blur: Largest standard deviation, pixels. Of larger images than 100 pixels more is wide.
        noise: Largest standard deviation, in intensity.
        posterize: Largest number of bits removed, an integer up to 7; 6 is wide.
        equalize: Largest strength, up to 1.
        autocontrast: Largest strength, up to 1.
        jpeg: Largest quality removed, an integer up to 99; 90 is wide.
        padding_mode: Fill outside the image: "zeros", "border" or "reflection" (for photographs).

    Raises:
        ValueError: If a range is invalid, or every part is switched off; at a call, if images are smaller than
            5 x 5 pixels.
        ImportError: If an operation is on and torchvision is not installed.

    Example:
        >>> from hard_aug.transforms import menu
        >>> transform = menu(padding_mode="reflection")
        >>> transform.size, len({parameter.group for parameter in transform.spec})
        (66, 14)
        >>> menu(elastic=None).size
        16
        >>> menu(posterize=6, equalize=1.0, autocontrast=1.0, jpeg=90).size  # for a policy that needs no gradient
        70
    """
    stages: list[Transform] = []
    if _is_on(translation, rotation, scale, shear):
        stages.append(
            Affine(translation=translation, rotation=rotation, scale=scale, shear=shear, padding_mode=padding_mode)
        )
    if tilt is not None:
        stages.append(Perspective(tilt=tilt, focal_length=FOCAL_LENGTH, padding_mode=padding_mode))
    if elastic is not None:
        stages.append(Elastic(magnitude=elastic, padding_mode=padding_mode))
    if _is_on(brightness, contrast, saturation, hue):
        stages.append(Color(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue))
    if _is_on(gamma, sharpness, blur, noise):
        stages.append(Filter(gamma=gamma, sharpness=sharpness, blur=blur, noise=noise))
    if _is_on(posterize, equalize, autocontrast, jpeg):
        stages.append(Operations(posterize=posterize, equalize=equalize, autocontrast=autocontrast, jpeg=jpeg))
    if not stages:
        raise ValueError("menu with every part switched off has no effect; give at least one range")
    return Menu(*stages)


def _is_on(*ranges: float | None) -> bool:
    return any(value is not None for value in ranges)
