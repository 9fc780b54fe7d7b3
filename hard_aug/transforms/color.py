"""Color: brightness, contrast, saturation and hue as one affine map of the channels.

The order is: contrast about mid-grey 1/2, brightness (an offset), saturation `g g^T + s (I - g g^T)` about the grey
axis `g = (1, 1, 1) / sqrt(3)`, hue as a rotation about that axis. Nothing is clamped in between, so the four multiply
out to one matrix and gradients do not vanish inside. (This rotation differs from the hue of HSV: it preserves the
mean.)

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
from hard_aug.transforms.argument_checks import check_factors, check_positive, warn_of_units
from hard_aug.transforms.base import ColorTransform
from hard_aug.transforms.context import Context
from hard_aug.transforms.spec import Parameter, make_plan
from hard_aug.utils.checks import as_python


class Color(ColorTransform):
    """Colour changes with parameters in symmetric ranges. `u = 0` is the identity.

    A range of None switches that part off. On images with one channel saturation and hue are the identity.
    Gradients: images yes, parameters yes, second order no.

    Args:
        brightness: Largest offset, in intensity (images are in [0, 1]).
        contrast: Largest factor, above 1; its reciprocal is the smallest.
        saturation: Largest factor, above 1; its reciprocal is the smallest. For 3 channels.
        hue: Largest rotation about the grey axis, degrees. For 3 channels.

    Raises:
        ValueError: If a range is not positive, a factor is not above 1, or every part is switched off; at a call, if
            the number of channels is not 1 or 3, or nothing is left that changes images with 1.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Color
        >>> transform = Color(brightness=0.1, hue=None)
        >>> [parameter.name for parameter in transform.spec]
        ['brightness', 'contrast', 'saturation']
        >>> transform(torch.rand(2, 3, 8, 8), torch.randn(2, transform.size)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        *,
        brightness: float | None = 0.2,
        contrast: float | None = 1.5,
        saturation: float | None = 1.5,
        hue: float | None = 20.0,
    ) -> None:
        check_positive(brightness=brightness, hue=hue)
        check_factors(contrast=contrast, saturation=saturation)
        warn_of_units(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
        brightness, contrast, saturation, hue = as_python(brightness, contrast, saturation, hue)
        offsets = (("brightness", brightness, "intensity"), ("hue", hue, "degrees"))
        factors = (("contrast", contrast), ("saturation", saturation))
        spec = [
            *(Parameter(name, -value, value, 0.0, unit, block="color") for name, value, unit in offsets if value),
            *(Parameter(name, 1 / value, value, 1.0, "factor", True, "color") for name, value in factors if value),
        ]
        if not spec:
            raise ValueError("Color with every part switched off has no effect; give at least one range")
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue
        self.spec = tuple(spec)
        self.plan = make_plan("color", self.spec)

    def check_channels(self, channels: int) -> None:
        """See `Transform.check_channels`."""
        if channels not in (1, 3):
            raise ValueError(
                f"Color expected images with 1 or 3 channels, got {channels}; leave it out, as menu(brightness=None, "
                "contrast=None, saturation=None, hue=None) does"
            )
        if channels == 1 and self.brightness is None and self.contrast is None:
            raise ValueError(
                "this Color has only saturation and hue, which do not change images with 1 channel; add brightness or "
                "contrast, or leave it out: menu(brightness=None, contrast=None, saturation=None, hue=None)"
            )

    def color_matrix(self, u: Tensor, channels: int) -> Tensor:
        """See `ColorTransform.color_matrix`."""
        self._check_parameters(u)
        return compose_color(u, self.plan, channels=channels)

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.apply`."""
        return warp_color(images, color_matrix=self.color_matrix(u, images.shape[1]))

    def apply_clamped(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.apply_clamped`."""
        return warp_color(images, color_matrix=self.color_matrix(u, images.shape[1]), clamp=True)
