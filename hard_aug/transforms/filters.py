"""Filter: blur, sharpness, gamma, solarisation and noise with parameters per sample, over kornia's functionals.

They come in the order of the table. Those with a strength have their identity at its end, 0.

| parameter | unit | what it does |
|---|---|---|
| gamma | factor, both sides of 1 | `x^gamma`; above 1 darkens |
| solarize | strength in [0, 1] | blends in the image with its bright half inverted (a threshold has no gradient) |
| sharpness | strength | 0: as it is; each 1 adds the difference to a smoothed image once more |
| blur | standard deviation, pixels | Gaussian |
| motion_blur | strength in [0, 1] | blends in a blur along a line |
| motion_angle | degrees | of that line, counterclockwise from the horizontal |
| noise | standard deviation, intensity | adds `Context.noise`, times this |
"""

from __future__ import annotations

import math

import torch
from kornia.enhance import sharpness
from kornia.filters import filter2d_separable, get_gaussian_kernel1d, motion_blur
from torch import Tensor

from hard_aug.ops.formats import memory_format_of
from hard_aug.transforms.base import Context, Parameter, Transform
from hard_aug.transforms.settings import check_factors, check_positive

#: Below it a power's gradient in the image is too steep; also the standard deviation of a blur that does nothing.
SMALLEST_INTENSITY = 1e-5
SMALLEST_SIGMA = 0.05
LARGEST_ANGLE = 90.0


class Filter(Transform):
    """Filters with parameters inside their ranges. `u = 0` is the identity.

    Args:
        blur: largest standard deviation, pixels.
        gamma: largest exponent, above 1; its reciprocal is the smallest.
        noise: largest standard deviation, in intensity (images are in [0, 1]).
        sharpness: largest strength.
        solarize: largest strength, up to 1.
        motion_blur: largest strength, up to 1.
        motion_length: of the line, pixels, odd, at least 3.

    On a GPU kornia's motion blur may wait for the device; the others do not. None switches a part off.
    Gamma and sharpness clamp to [0, 1], with no gradient where they do.

    Raises:
        ValueError: a range that is not positive, a strength above 1, a factor under 1, an even length, every part
            switched off; at a call, no noise in the context where it is wanted, or
            images under 3 x 3 pixels for the sharpness.

    Gradients: images yes, parameters yes, second order no.
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
        strengths = {"solarize": solarize, "sharpness": sharpness, "blur": blur, "motion_blur": motion_blur}
        check_positive(**strengths, noise=noise)
        for name, value in (("solarize", solarize), ("motion_blur", motion_blur)):
            if value is not None and value > 1:
                raise ValueError(f"{name}={value}: wanted a strength in (0, 1]")
        if not isinstance(motion_length, int) or motion_length < 3 or motion_length % 2 == 0:
            raise ValueError(f"motion_length={motion_length}: wanted an odd number of pixels of at least 3")
        spec: list[Parameter] = []
        if gamma is not None:
            spec.append(Parameter("gamma", 1 / gamma, gamma, 1.0, "factor", True, "filter"))
        units = {"blur": "pixels"}
        for name, value in strengths.items():
            if value is not None:
                unit = units.get(name, "strength")
                spec.append(Parameter(name, 0.0, value, 0.0, unit, block="filter", one_sided=True))
        if motion_blur is not None:
            spec.append(Parameter("motion_angle", -LARGEST_ANGLE, LARGEST_ANGLE, 0.0, "degrees", block="filter"))
        if noise is not None:
            spec.append(Parameter("noise", 0.0, noise, 0.0, "intensity", block="filter", one_sided=True))
        if not spec:
            raise ValueError("Filter with every part switched off does nothing; give at least one range")
        self.spec = tuple(spec)
        self.blur_size = 2 * math.ceil(3 * (blur or 0.0)) + 1
        self.motion_length = motion_length

    @property
    def wants_noise(self) -> bool:
        return self.spec[-1].name == "noise"

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        if images.numel() == 0:
            return images
        values = self.decode(u)
        compute = torch.promote_types(torch.promote_types(images.dtype, u.dtype), torch.float32)
        out = images.to(compute)
        if "gamma" in values:
            out = out.clamp(SMALLEST_INTENSITY, 1).pow(_per_image(values["gamma"]))
        if "solarize" in values:
            # kornia's solarize brings its threshold from the host, which on a GPU is to wait.
            out = torch.lerp(out, torch.where(out < 0.5, out, 1 - out), _per_image(values["solarize"]))
        if "sharpness" in values:
            if min(out.shape[-2:]) < 3:
                raise ValueError(
                    f"sharpness wants images of at least 3 x 3 pixels, got {out.shape[-2]} x {out.shape[-1]}; "
                    "use Filter(sharpness=None)"
                )
            out = sharpness(out, 1 + values["sharpness"])
        if "blur" in values:
            # kornia's gaussian_blur2d would look at sigma, which on a GPU is to wait for it.
            kernel = get_gaussian_kernel1d(self.blur_size, values["blur"].clamp(min=SMALLEST_SIGMA)[:, None])
            out = filter2d_separable(out, kernel, kernel, border_type="replicate")
        if "motion_blur" in values:
            still = torch.zeros_like(values["motion_angle"])
            blurred = motion_blur(out, self.motion_length, values["motion_angle"], still, "replicate", "bilinear")
            out = torch.lerp(out, blurred, _per_image(values["motion_blur"]))
        if "noise" in values:
            if context.noise is None:
                raise ValueError(
                    "Filter(noise=...) wants noise: HardAugmenter gives it; elsewhere pass "
                    "Context(noise=torch.randn_like(images))"
                )
            out = out + _per_image(values["noise"]) * context.noise.to(compute)
        return out.to(images.dtype).contiguous(memory_format=memory_format_of(images))


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
