"""Color: brightness, contrast, saturation and hue as one affine map of the channels.

In this order: contrast about mid-grey 1/2, brightness (an offset), saturation `g g^T + s (I - g g^T)` about the grey
axis `g = (1, 1, 1) / sqrt(3)`, hue as a rotation about that axis. Nothing is clamped between them, so they multiply
out to one matrix and gradients never vanish inside. (Hue by rotation is not the hue of HSV: it keeps the mean.)

| parameter | unit |
|---|---|
| brightness | intensity in [0, 1] added |
| contrast, saturation | factor |
| hue | degrees about the grey axis |
"""

from __future__ import annotations

from torch import Tensor

from hard_aug.ops import warp_color
from hard_aug.ops.compose import compose_color
from hard_aug.transforms.base import ColorTransform, Context, Parameter, plan_of
from hard_aug.transforms.settings import check_factors, check_positive


class Color(ColorTransform):
    """Colour changes with parameters inside symmetric ranges.

    Args:
        brightness: largest offset, in intensity (images are in [0, 1]).
        contrast: largest factor, above 1; its reciprocal is the smallest.
        saturation: likewise. Wants 3 channels.
        hue: largest rotation in degrees. Wants 3 channels.

    None switches a part off. For images of one channel: `Color(saturation=None, hue=None)`. `u = 0` is the identity.

    Raises:
        ValueError: a range that is not positive, a factor under 1, every part switched off, or unfit channels.

    Gradients: images yes, parameters yes, second order no.
    """

    def __init__(
        self,
        *,
        brightness: float | None = 0.2,
        contrast: float | None = 1.5,
        saturation: float | None = 1.5,
        hue: float | None = 20.0,
    ) -> None:
        spec: list[Parameter] = []
        check_positive(brightness=brightness, hue=hue)
        check_factors(contrast=contrast, saturation=saturation)
        for name, value, unit in (("brightness", brightness, "intensity"), ("hue", hue, "degrees")):
            if value is not None:
                spec.append(Parameter(name, -value, value, 0.0, unit, block="color"))
        for name, value in (("contrast", contrast), ("saturation", saturation)):
            if value is not None:
                spec.append(Parameter(name, 1 / value, value, 1.0, "factor", True, "color"))
        if not spec:
            raise ValueError("Color with every part switched off does nothing; give at least one range")
        self.spec = tuple(spec)
        self.plan = plan_of("color", self.spec)

    def check_channels(self, channels: int) -> None:
        chromatic = [p.name for p in self.spec if p.name in ("saturation", "hue")]
        if channels == 3 or (channels == 1 and not chromatic):
            return
        if channels == 1:
            raise ValueError(
                f"Color({', '.join(chromatic)}) wants 3 channels, got images of 1; "
                "use Color(saturation=None, hue=None) for grey images"
            )
        raise ValueError(f"Color wants images of 1 or 3 channels, got {channels}")

    def color_matrix(self, u: Tensor, channels: int) -> Tensor:
        self._check_parameters(u)
        return compose_color(u, self.plan, channels=channels)

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        return warp_color(images, color_matrix=self.color_matrix(u, images.shape[1]))

    def apply_clamped(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        return warp_color(images, color_matrix=self.color_matrix(u, images.shape[1]), clamp=True)
