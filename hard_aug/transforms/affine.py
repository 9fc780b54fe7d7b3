"""Affine: translation, rotation, anisotropic scale and shear of each image, in one gather.

An input point `p`, in pixels from the centre, moves to `R H S p + t`: scale `S`, then shear `H = [[1, h], [0, 1]]`,
then rotation `R`, then translation `t`. Sampling uses the inverse of this map, in closed form (`ops.compose`).
Spatial transformers: Jaderberg et al., arXiv:1506.02025. A learned distribution of them is the first augmenter of HARD,
arXiv:2305.14890.

| parameter | unit | effect of positive values |
|---|---|---|
| translation_x, translation_y | fraction of width, height | content moves right, down |
| rotation | degrees | clockwise as displayed (y points down) |
| scale_x, scale_y | factor | content grows |
| shear | tangent | lower rows move right |
"""

from __future__ import annotations

import math

from hard_aug.ops.warp_color import PaddingMode
from hard_aug.ops.warp_color.checks import check_padding_mode
from hard_aug.transforms.argument_checks import check_factors, check_positive, warn_of_units
from hard_aug.transforms.base import PlannedSpatialTransform
from hard_aug.transforms.spec import Parameter, make_plan
from hard_aug.utils.checks import as_python


class Affine(PlannedSpatialTransform):
    """Affine maps with parameters in symmetric ranges. `u = 0` is the identity.

    A range of None switches that part off; it then has no parameters. The default ranges are a quarter of the image,
    0.6 rad, a log-scale of 0.4 and a shear of 0.4. Gradients: images yes, parameters yes, second order no.

    Args:
        translation: Largest shift, as a fraction of the width and of the height.
        rotation: Largest angle, degrees.
        scale: Largest factor, above 1; its reciprocal is the smallest. Width and height scale independently.
        shear: Largest tangent of the shear angle.
        padding_mode: Fill outside the image: "zeros", "border" or "reflection".

    Raises:
        ValueError: If a range is not positive, the scale is not above 1, or every part is switched off.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Affine
        >>> transform = Affine(rotation=15.0, scale=None, shear=None)
        >>> transform(torch.rand(2, 3, 8, 8), torch.randn(2, transform.size)).shape
        torch.Size([2, 3, 8, 8])
        >>> sorted(transform.decode(torch.zeros(1, 3)))
        ['rotation', 'translation_x', 'translation_y']
    """

    def __init__(
        self,
        *,
        translation: float | None = 0.25,
        rotation: float | None = math.degrees(0.6),
        scale: float | None = math.exp(0.4),
        shear: float | None = 0.4,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        check_positive(translation=translation, rotation=rotation, shear=shear)
        check_factors(scale=scale)
        check_padding_mode(padding_mode)
        warn_of_units(translation=translation, rotation=rotation, scale=scale, shear=shear)
        translation, rotation, scale, shear = as_python(translation, rotation, scale, shear)
        spec: list[Parameter] = []
        if translation is not None:
            for axis, length in (("x", "width"), ("y", "height")):
                unit = f"fraction of {length}"
                spec.append(
                    Parameter(
                        f"translation_{axis}", -translation, translation, 0.0, unit, block="affine", group="translation"
                    )
                )
        if rotation is not None:
            spec.append(Parameter("rotation", -rotation, rotation, 0.0, "degrees", block="affine"))
        if scale is not None:
            for axis in "xy":
                spec.append(Parameter(f"scale_{axis}", 1 / scale, scale, 1.0, "factor", True, "affine", group="scale"))
        if shear is not None:
            spec.append(Parameter("shear", -shear, shear, 0.0, "tangent", block="affine"))
        if not spec:
            raise ValueError("Affine with every part switched off has no effect; give at least one range")
        self.translation, self.rotation, self.scale, self.shear = translation, rotation, scale, shear
        self.padding_mode = padding_mode
        self.spec = tuple(spec)
        self.plan = make_plan("affine", self.spec)
