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

import math

import torch
from torch import Tensor

from hard_aug.ops import warp_color
from hard_aug.transforms.base import ColorTransform, Context, Parameter
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
        values = self.decode(u)
        zero, one = torch.zeros_like(u[:, 0]), torch.ones_like(u[:, 0])
        contrast, brightness = values.get("contrast", one), values.get("brightness", zero)
        offset = 0.5 * (1 - contrast) + brightness
        if channels == 1:
            return torch.stack((contrast, offset), dim=1)[:, None]
        # On the grey axis: contrast alone. Across it: also saturation, and rotation by the hue (Rodrigues' formula).
        strength = contrast * values.get("saturation", one)
        angle = torch.deg2rad(values.get("hue", zero))
        across, turn = strength * angle.cos(), strength * angle.sin() / math.sqrt(3)
        grey = (contrast - across) / 3
        diagonal, before, after = grey + across, grey - turn, grey + turn
        rows = (
            diagonal,
            before,
            after,
            offset,
            after,
            diagonal,
            before,
            offset,
            before,
            after,
            diagonal,
            offset,
        )
        return torch.stack(rows, dim=1).view(-1, 3, 4)

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        return warp_color(images, color_matrix=self.color_matrix(u, images.shape[1]))
