"""Operations: posterise, equalise, autocontrast and JPEG compression with one strength each, by torchvision.

They are applied in the order of the table, on 8 bits a channel. Each strength has its identity at the lower end, 0.

| parameter | unit | effect |
|---|---|---|
| posterize | bits removed, rounded | keeps the other highest bits of the 8 |
| equalize | strength in [0, 1] | blends in the image with equalised histograms, by channel |
| autocontrast | strength in [0, 1] | blends in the image stretched to the full range, by channel |
| jpeg | quality removed, rounded | codes and decodes the image with quality 100 minus this value |

None has a useful gradient: the histograms, the rounding and the coding are piecewise constant.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hard_aug.transforms.argument_checks import check_positive
from hard_aug.transforms.base import Transform
from hard_aug.transforms.context import Context
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.checks import as_python, check_fraction, is_integer
from hard_aug.utils.extras import requires_extra

BITS, BEST_QUALITY = 8, 100


class Operations(Transform):
    """Operations without gradients, in given ranges. `u = 0` is the identity.

    A range of None switches that part off. Each operation runs only on the images whose strength of it is above 0,
    which are few where `GroupBandit` draws; images without any come back equal to the bit. The others are clamped to
    [0, 1] and operated on in 8 bits. At any quality JPEG halves the resolution of the colours of images with 3
    channels, so the smallest strength already changes these. The same input gives the same output.

    Requires torchvision, from the extra `data`. On a GPU a call synchronises with the device, so a CUDA graph can not
    hold it, and JPEG is coded on the CPU.

    Gradients: images straight-through (as if nothing was done), parameters none; use GroupBandit or Search. Next to
    other transforms in a `Compose`, a policy that learns by gradient learns those and leaves these parameters random.

    Args:
        posterize: Largest number of bits removed, of 8: an integer up to 7; 6 leaves 2 bits.
        equalize: Largest strength, up to 1.
        autocontrast: Largest strength, up to 1.
        jpeg: Largest quality removed, of 100: an integer up to 99; 90 leaves a quality of 10.

    Raises:
        ValueError: If a number is no integer in its range, a strength is not in (0, 1], or every part is switched off;
            at a call, if images have neither 1 nor 3 channels and autocontrast or jpeg is on.
        ImportError: If torchvision is not installed.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Operations
        >>> transform = Operations(equalize=None, autocontrast=None, jpeg=None)
        >>> images = torch.full((2, 1, 1, 1), 200 / 255)
        >>> found = transform(images, torch.tensor([[0.0], [9.0]]))
        >>> (255 * found).flatten()
        tensor([200., 192.])
    """

    def __init__(
        self,
        *,
        posterize: int | None = 6,
        equalize: float | None = 1.0,
        autocontrast: float | None = 1.0,
        jpeg: int | None = 90,
    ) -> None:
        posterize = _whole("posterize", posterize, BITS - 1, "bits removed of 8")
        jpeg = _whole("jpeg", jpeg, BEST_QUALITY - 1, "quality removed of 100")
        check_positive(equalize=equalize, autocontrast=autocontrast)
        fractions = {"equalize": equalize, "autocontrast": autocontrast}
        check_fraction(**{name: value for name, value in fractions.items() if value is not None})
        equalize, autocontrast = as_python(equalize, autocontrast)
        ranges = {
            "posterize": (posterize, "bits removed"),
            "equalize": (equalize, "strength"),
            "autocontrast": (autocontrast, "strength"),
            "jpeg": (jpeg, "quality removed"),
        }
        spec = tuple(
            Parameter(name, 0.0, float(value), 0.0, unit, block="operations", one_sided=True)
            for name, (value, unit) in ranges.items()
            if value is not None
        )
        if not spec:
            raise ValueError("Operations with every part switched off has no effect; give at least one range")
        _functional()
        self.posterize, self.equalize, self.autocontrast, self.jpeg = posterize, equalize, autocontrast, jpeg
        self.spec = spec

    @property
    def bounded(self) -> bool:
        """See `Transform.bounded`."""
        return True

    def check_channels(self, channels: int) -> None:
        """See `Transform.check_channels`."""
        limited = [name for name in ("autocontrast", "jpeg") if getattr(self, name) is not None]
        if limited and channels not in (1, 3):
            raise ValueError(
                f"Operations with {' and '.join(limited)} expected images with 1 or 3 channels, got {channels}; use "
                f"{', '.join(f'{name}=None' for name in limited)}"
            )

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.apply`."""
        if images.numel() == 0:
            return images
        strengths = self.decode(u.detach().cpu())  # all at once: on a GPU this synchronises with the device
        functional = _functional()
        operated: Tensor | None = None
        for name, strength in strengths.items():
            strength = strength.round() if name in _ROUNDED else strength
            rows = (strength > 0).nonzero()[:, 0]
            if len(rows) == 0:
                continue
            if operated is None:
                operated = images.detach().to(torch.promote_types(images.dtype, torch.float32), copy=True)
            on_device = rows.to(images.device)
            operated[on_device] = _FUNCTIONS[name](operated[on_device].clamp(0, 1), strength[rows], functional)
        if operated is None:
            return images
        return _StraightThrough.apply(images, operated.to(images.dtype))  # type: ignore[no-any-return]  # untyped


class _StraightThrough(torch.autograd.Function):
    """Return the second tensor in the forward pass; pass the gradient through to the first, at any order."""

    @staticmethod
    def forward(images: Tensor, operated: Tensor) -> Tensor:
        return operated.view_as(operated)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Save nothing: the backward pass needs no tensor."""

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _posterized(images: Tensor, removed: Tensor, functional: Any) -> Tensor:
    return _by_value(images, removed, lambda part, value: functional.posterize(part, BITS - value))


def _equalized(images: Tensor, strength: Tensor, functional: Any) -> Tensor:
    return _blended(images, strength, functional.equalize)


def _autocontrasted(images: Tensor, strength: Tensor, functional: Any) -> Tensor:
    return _blended(images, strength, functional.autocontrast)


def _compressed(images: Tensor, removed: Tensor, functional: Any) -> Tensor:
    def compress(part: Tensor, value: int) -> Tensor:
        return functional.jpeg(part.cpu(), BEST_QUALITY - value).to(part.device)  # type: ignore[no-any-return]

    return _by_value(images, removed, compress)


#: By parameter: from images `(n, C, H, W)` in [0, 1], strengths `(n,)` on the CPU, and torchvision's functions.
_FUNCTIONS: dict[str, Callable[[Tensor, Tensor, Any], Tensor]] = {
    "posterize": _posterized,
    "equalize": _equalized,
    "autocontrast": _autocontrasted,
    "jpeg": _compressed,
}
_ROUNDED = ("posterize", "jpeg")


def _by_value(images: Tensor, values: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Apply a function of bytes once for each distinct whole number of `values`, `(B,)` on the CPU."""
    out = images.clone()
    for value in sorted(set(values.tolist())):
        rows = (values == value).nonzero()[:, 0].to(images.device)
        out[rows] = _from_bytes(function(_to_bytes(images[rows]), int(value)), like=images)
    return out


def _blended(images: Tensor, strength: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Blend what a function of bytes makes of the images into them, by a strength `(B,)` in [0, 1]."""
    operated = _from_bytes(function(_to_bytes(images)), like=images)
    return torch.lerp(images, operated, strength.to(images)[:, None, None, None])


def _to_bytes(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def _from_bytes(images: Tensor, *, like: Tensor) -> Tensor:
    return images.to(like.dtype) / 255


def _whole(name: str, value: Any, most: int, meaning: str) -> int | None:
    """Return a number of steps as Python's; raise `ValueError` unless it is an integer in [1, most], or None."""
    if value is None:
        return None
    if not is_integer(value) or not 1 <= int(value) <= most:
        raise ValueError(
            f"{name}={value}: expected an integer from 1 to {most}, the {meaning}; {name}=None switches it off"
        )
    return int(value)


def _functional() -> ModuleType:
    """Import torchvision's functions, which are no dependency of the library's core."""
    with requires_extra("Operations", "data", "torchvision"):
        from torchvision.transforms.v2 import functional
    return functional  # type: ignore[no-any-return]  # untyped in torchvision
