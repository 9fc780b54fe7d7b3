"""ImageCheck: what an augmenter is called with, checked, in [0, 1], and with the loader's normalisation undone."""

from __future__ import annotations

import warnings
from typing import Literal, NoReturn, get_args

import torch
from torch import Tensor

from hard_aug.models.normalized import Normalization
from hard_aug.utils.checks import RANGE_TOLERANCE, check_image_form, raise_for_values
from hard_aug.utils.host_copy import HostCopy

OutOfRange = Literal["raise", "clamp"]
#: Where a normalisation is undone: bfloat16 keeps values of up to 4 to 2^-7, times a standard deviation of up to 0.5.
NORMALIZED_TOLERANCE = 1e-2
DECLARE_ADVICE = "say so with normalization=(mean, std)"
CLAMP_ADVICE = (
    ". If a random erasing (timm's modes 'rand' and 'pixel') or an interpolation leaves the range, clamp what it does: "
    "out_of_range='clamp'"
)
#: Part of the values that may be clamped: erased patches and overshoots of an interpolation are fewer.
LARGEST_CLAMPED_PART = 0.5


class ImageCheck:
    """Checks the images that a `HardAugmenter` is called with, and undoes their normalisation.

    Values are read on the CPU at each call, on a GPU (where that synchronises with the device) at the first call of a
    shape; later faults there are noted in `bad`, a bool scalar, and warned of once, some calls later.

    Args:
        device: of the networks.
        normalization: of the loader, to be undone; None: images are in [0, 1] already.
        out_of_range: whether values outside [0, 1] raise or are clamped; None: they raise, and the caller has no such
            setting.

    Raises:
        ValueError: an unknown `out_of_range`.
    """

    def __init__(
        self,
        device: torch.device,
        normalization: Normalization | None = None,
        *,
        out_of_range: OutOfRange | None = None,
    ) -> None:
        if out_of_range is not None and out_of_range not in get_args(OutOfRange):
            raise ValueError(f"out_of_range={out_of_range!r}: expected one of {', '.join(get_args(OutOfRange))}")
        self.device, self.normalization, self.out_of_range = device, normalization, out_of_range
        self.bad = torch.zeros((), dtype=torch.bool, device=device)
        self._bad_on_host, self._warns = HostCopy(self.bad), True
        self._seen: set[tuple[int, ...]] = set()
        self._compared_with_normalization = normalization is None

    def __call__(self, images: object, *, takes_gradients: bool = True) -> Tensor:
        """Return `images` in [0, 1], detached; a new tensor only where a normalisation is undone or values are clamped.

        Args:
            images: `(B, C, H, W)`, normalised or not as the constructor was told.
            takes_gradients: whether gradients will be taken, for which inference mode is refused.

        Raises:
            TypeError: no floating-point tensor.
            ValueError: wrong rank, device, channels or range, or values that are not finite.
            RuntimeError: inference mode.
        """
        images = given = check_image_form(images, takes_gradients=takes_gradients)
        if images.device.type != self.device.type:
            raise ValueError(
                f"images are on {images.device}, and the networks were on {self.device} when the augmenter was "
                f"created; use images.to('{self.device}'), or create the augmenter after moving the networks"
            )
        if self.normalization is not None:
            images = self._denormalized(images, self.normalization)
        if images.numel() == 0:
            return images
        low, high = images.aminmax()  # NaN, if there is one
        clamps = self.out_of_range == "clamp"
        tolerance = RANGE_TOLERANCE if self.normalization is None else NORMALIZED_TOLERANCE
        valid = low.isfinite() & high.isfinite()
        if not clamps:
            valid &= (low >= -tolerance) & (high <= 1 + tolerance)
        if images.is_cuda and tuple(images.shape) in self._seen:
            self.bad |= ~valid
            self._warn_of_bad_values()
        else:
            if not bool(valid):
                self._raise(images)
            if clamps and bool((low < 0) | (high > 1)):
                self._check_clamped_part(images)
            if not self._compared_with_normalization:
                self._compare_with_normalization(given)
            if images.is_cuda:
                self._seen.add(tuple(images.shape))
        return images.clamp(0, 1) if clamps or self.normalization is not None else images

    def _warn_of_bad_values(self) -> None:
        if self._warns and self._bad_on_host():
            self._warns = False
            warnings.warn(
                "an earlier batch held NaN, values outside [0, 1] or labels of no class, which a GPU finds without "
                "being waited for; augmenter.check() raises for it",
                stacklevel=5,
            )

    @staticmethod
    def _denormalized(images: Tensor, normalization: Normalization) -> Tensor:
        if images.shape[1] != len(normalization.mean):
            raise ValueError(
                f"normalization has {len(normalization.mean)} channels, and the images have {images.shape[1]}: "
                "expected a mean and a std for each channel"
            )
        return normalization.denormalize(images)

    def _raise(self, images: Tensor) -> NoReturn:
        undone = self.normalization is not None
        advice = "is it the loader's own? Leave it out for images in [0, 1]" if undone else DECLARE_ADVICE
        raise_for_values(images, advice=advice if self.out_of_range is None else advice + CLAMP_ADVICE, undone=undone)

    def _check_clamped_part(self, images: Tensor) -> None:
        part = float(((images < 0) | (images > 1)).float().mean())
        if part > LARGEST_CLAMPED_PART:
            raise ValueError(
                f"out_of_range='clamp' would clamp {100 * part:.0f} % of the values: these are no images in [0, 1]"
                f"{'' if self.normalization is None else ' once normalization is undone'}. Divide bytes by 255; give "
                "the normalization of the loader"
            )

    def _compare_with_normalization(self, given: Tensor) -> None:
        """Warn if the first images are none that the normalisation has been applied to."""
        self._compared_with_normalization = True
        normalization = self.normalization
        if normalization is None or not any(mean > 0 for mean in normalization.mean):
            return
        if bool((given.amin() >= 0) & (given.amax() <= 1 + RANGE_TOLERANCE)):  # normalised bright images go beyond
            warnings.warn(
                f"normalization=(mean, std) is undone, and no value of the first images is below 0 (they lie in "
                f"[{float(given.amin()):.3g}, {float(given.amax()):.3g}]), as those below the mean would be: they look "
                "like images in [0, 1]. Leave it out for these; normalise inside the networks with "
                "hard_aug.Normalized(network, mean, std)",
                stacklevel=5,
            )

    def labels(self, labels: Tensor, *, classes: int) -> Tensor:
        """Return `labels`, `(B,)`, on the device.

        Args:
            labels: integers.
            classes: K.

        Raises:
            ValueError: values outside [0, classes). (On a GPU that is noted in `bad`.)
        """
        labels = labels.to(self.device)
        if labels.numel() == 0:
            return labels
        low, high = labels.aminmax()
        wrong = (low < 0) | (high >= classes)
        if wrong.is_cuda:
            self.bad |= wrong
        elif bool(wrong):
            raise ValueError(
                f"labels lie in [{int(low)}, {int(high)}], and the teacher has {classes} classes: expected 0 to "
                f"{classes - 1}; leave out images without a label"
            )
        return labels
