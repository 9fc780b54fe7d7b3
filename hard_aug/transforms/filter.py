"""Filter: blur, sharpness, gamma, solarisation and noise with parameters per sample, based on kornia's functions.

They are applied in the order of the table. Those with a strength have their identity at the lower end, 0.

| parameter | unit | effect |
|---|---|---|
| gamma | factor, both sides of 1 | `x^gamma`; above 1 darkens |
| solarize | strength in [0, 1] | blends in the image with its bright half inverted (a threshold has no gradient) |
| sharpness | strength | adds the difference to a smoothed image, times the strength |
| blur | standard deviation, pixels | Gaussian blur |
| motion_blur | strength in [0, 1] | blends in a blur along a line |
| motion_angle | degrees | angle of that line, counterclockwise from the horizontal |
| noise | standard deviation, intensity | adds `Context.noise` times this value |
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from kornia.enhance import sharpness
from kornia.filters import filter2d_separable, get_gaussian_kernel1d, motion_blur
from torch import Tensor

from hard_aug.ops.memory_formats import memory_format_of
from hard_aug.transforms.argument_checks import check_factors, check_positive, warn_of_units
from hard_aug.transforms.base import Transform
from hard_aug.transforms.context import Context
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.checks import as_python, check_fraction, is_integer

#: Lower clamp of the intensity before gamma: below it the gradient of the power in the image is too steep.
MIN_INTENSITY = 1e-5
#: Lower clamp of the standard deviation of the blur, at which the blur has no effect.
MIN_SIGMA = 0.05
MAX_ANGLE = 90.0


class Filter(Transform):
    """Filters with parameters in given ranges. `u = 0` is the identity.

    A range of None switches that part off. Gamma and sharpness clamp to [0, 1], with gradient 0 where they do. On a GPU
    kornia's motion blur may synchronise with the device; the other filters do not.
    Gradients: images yes, parameters yes, second order no.

    Args:
        blur: Largest standard deviation, pixels.
        gamma: Largest exponent, above 1; its reciprocal is the smallest.
        noise: Largest standard deviation, in intensity (images are in [0, 1]).
        sharpness: Largest strength.
        solarize: Largest strength, up to 1.
        motion_blur: Largest strength, up to 1.
        motion_length: Length of the line, pixels, odd, at least 3.

    Raises:
        ValueError: If a range is not positive, a strength is above 1, a factor is not above 1, the length is even, or
            every part is switched off; at a call, if noise is required and the context has none, or if images are
            smaller than 3 x 3 pixels and sharpness is on.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Filter, make_context
        >>> transform = Filter(sharpness=None)
        >>> [parameter.name for parameter in transform.spec]
        ['gamma', 'blur', 'noise']
        >>> images = torch.rand(2, 3, 8, 8)
        >>> context = make_context(transform, images, generator=torch.Generator().manual_seed(0))
        >>> transform(images, torch.randn(2, transform.size), context).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        *,
        blur: float | None = 2.0,
        gamma: float | None = 1.5,
        noise: float | None = 0.1,
        sharpness: float | None = 2.0,
        solarize: float | None = None,
        motion_blur: float | None = None,
        motion_length: int = 9,
    ) -> None:
        check_factors(gamma=gamma)
        check_positive(solarize=solarize, sharpness=sharpness, blur=blur, motion_blur=motion_blur, noise=noise)
        fractions = {"solarize": solarize, "motion_blur": motion_blur}
        check_fraction(**{name: value for name, value in fractions.items() if value is not None})
        if not is_integer(motion_length) or motion_length < 3 or motion_length % 2 == 0:
            raise ValueError(f"motion_length={motion_length}: expected an odd number of pixels >= 3")
        warn_of_units(blur=blur, gamma=gamma, noise=noise)
        blur, gamma, noise, sharpness = as_python(blur, gamma, noise, sharpness)
        solarize, motion_blur = as_python(solarize, motion_blur)
        strengths = {"solarize": solarize, "sharpness": sharpness, "blur": blur, "motion_blur": motion_blur}
        spec: list[Parameter] = []
        if gamma is not None:
            spec.append(Parameter("gamma", 1 / gamma, gamma, 1.0, "factor", True, "filter"))
        units = {"blur": "pixels"}
        for name, value in strengths.items():
            if value is not None:
                unit = units.get(name, "strength")
                spec.append(Parameter(name, 0.0, value, 0.0, unit, block="filter", one_sided=True))
        if motion_blur is not None:
            spec.append(
                Parameter("motion_angle", -MAX_ANGLE, MAX_ANGLE, 0.0, "degrees", block="filter", group="motion_blur")
            )
        if noise is not None:
            spec.append(Parameter("noise", 0.0, noise, 0.0, "intensity", block="filter", one_sided=True))
        if not spec:
            raise ValueError("Filter with every part switched off has no effect; give at least one range")
        self.blur, self.gamma, self.noise, self.sharpness = blur, gamma, noise, sharpness
        self.solarize, self.motion_blur, self.motion_length = solarize, motion_blur, int(motion_length)
        self.spec = tuple(spec)
        self.blur_size = 2 * math.ceil(3 * (blur or 0.0)) + 1

    @property
    def requires_noise(self) -> bool:
        """See `Transform.requires_noise`."""
        return self.spec[-1].name == "noise"

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.apply`."""
        if images.numel() == 0:
            return images
        compute = torch.promote_types(torch.promote_types(images.dtype, u.dtype), torch.float32)
        values = {name: value.to(compute) for name, value in self.decode(u).items()}
        out = images.to(compute)
        if "gamma" in values:
            out = out.clamp(MIN_INTENSITY, 1).pow(_per_image(values["gamma"]))
        if "solarize" in values:
            # kornia's solarize copies its threshold from the host, which synchronises with a GPU.
            out = torch.lerp(out, torch.where(out < 0.5, out, 1 - out), _per_image(values["solarize"]))
        if "sharpness" in values:
            if min(out.shape[-2:]) < 3:
                raise ValueError(
                    "Filter(sharpness=...) requires images of at least 3 x 3 pixels, got "
                    f"{out.shape[-2]} x {out.shape[-1]}; use Filter(sharpness=None)"
                )
            out = _where_used(out, values["sharpness"], lambda part, strength: sharpness(part, 1 + strength))
        if "blur" in values:
            out = _where_used(out, values["blur"], self._blurred)
        if "motion_blur" in values:
            direction = torch.zeros_like(values["motion_angle"])  # 0: symmetric about the pixel
            blurred = motion_blur(out, self.motion_length, values["motion_angle"], direction, "replicate", "bilinear")
            out = torch.lerp(out, blurred, _per_image(values["motion_blur"]))
        if "noise" in values:
            if context.noise is None:
                raise ValueError(
                    "Filter(noise=...) requires noise: HardAugmenter provides it; otherwise pass "
                    "Context(noise=torch.randn_like(images))"
                )
            out = out + _per_image(values["noise"]) * context.noise.to(compute)
        return out.to(images.dtype).contiguous(memory_format=memory_format_of(images))

    def _blurred(self, images: Tensor, sigma: Tensor) -> Tensor:
        # kornia's gaussian_blur2d reads the value of sigma, which synchronises with a GPU.
        kernel = get_gaussian_kernel1d(self.blur_size, sigma.clamp(min=MIN_SIGMA)[:, None])
        return filter2d_separable(images, kernel, kernel, border_type="replicate")


def _where_used(images: Tensor, strength: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Apply a filter to the images of a strength above 0, the identity; on a GPU, where that synchronises, to all."""
    if strength.is_cuda:
        return function(images, strength)
    used = strength.detach() > 0
    if bool(used.all()):
        return function(images, strength)
    rows = used.nonzero()[:, 0]
    return images.index_copy(0, rows, function(images[rows], strength[rows])) if len(rows) else images


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
