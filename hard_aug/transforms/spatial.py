"""Affine: translation, rotation, anisotropic scale and shear of each image, in one gather.

An input point `p`, in pixels from the centre, goes to `R H S p + t`, with scale `S`, then shear `H = [[1, h], [0, 1]]`,
then rotation `R`, then translation `t`. The map that is sampled is its inverse, in closed form (`ops.compose`).
Spatial transformers: Jaderberg et al., arXiv:1506.02025; a learned distribution of them is the first augmenter of HARD,
arXiv:2305.14890.

| parameter | unit | direction of positive values |
|---|---|---|
| translation_x, translation_y | fraction of width, height | content moves right, down |
| rotation | degrees | clockwise as seen (y points down) |
| scale_x, scale_y | factor | content grows |
| shear | tangent | lower rows move right |
"""

from __future__ import annotations

from torch import Tensor

from hard_aug.ops import warp_color
from hard_aug.ops.compose import compose_map
from hard_aug.ops.warp_color import PaddingMode
from hard_aug.ops.warp_color.checks import check_padding_mode
from hard_aug.transforms.base import Context, Parameter, SpatialTransform, plan_of
from hard_aug.transforms.settings import check_factors, check_positive


class Affine(SpatialTransform):
    """Affine maps with parameters inside symmetric ranges.

    Args:
        translation: largest shift, as a fraction of the width and of the height.
        rotation: largest angle in degrees.
        scale: largest factor (at least 1); its reciprocal is the smallest. Width and height scale independently.
        shear: largest tangent of the shear angle.
        padding_mode: what lies outside the image: "zeros", "border" or "reflection".

    None switches a part off: it then has no parameters. `u = 0` is the identity.

    Raises:
        ValueError: a range that is not positive, a scale under 1, or every part switched off.

    Gradients: images yes, parameters yes, second order no.
    """

    def __init__(
        self,
        *,
        translation: float | None = 0.25,
        rotation: float | None = 30.0,
        scale: float | None = 1.4,
        shear: float | None = 0.3,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        check_positive(translation=translation, rotation=rotation, shear=shear)
        check_factors(scale=scale)
        check_padding_mode(padding_mode)
        spec: list[Parameter] = []
        if translation is not None:
            for axis, length in (("x", "width"), ("y", "height")):
                unit = f"fraction of {length}"
                spec.append(Parameter(f"translation_{axis}", -translation, translation, 0.0, unit, block="affine"))
        if rotation is not None:
            spec.append(Parameter("rotation", -rotation, rotation, 0.0, "degrees", block="affine"))
        if scale is not None:
            for axis in "xy":
                spec.append(Parameter(f"scale_{axis}", 1 / scale, scale, 1.0, "factor", True, "affine"))
        if shear is not None:
            spec.append(Parameter("shear", -shear, shear, 0.0, "tangent", block="affine"))
        if not spec:
            raise ValueError("Affine with every part switched off does nothing; give at least one range")
        self.spec = tuple(spec)
        self.plan = plan_of("affine", self.spec)
        self.padding_mode: PaddingMode = padding_mode

    @property
    def bounded(self) -> bool:
        return True

    def inverse_map(self, u: Tensor, height: int, width: int) -> Tensor:
        self._check_parameters(u)
        return compose_map(u, self.plan, height=height, width=width)

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        inverse_map = self.inverse_map(u, *images.shape[-2:])
        return warp_color(images, inverse_map=inverse_map, padding_mode=self.padding_mode)
