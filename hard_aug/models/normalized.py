"""Normalisation of images per channel, and networks together with the one that they expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug.utils.checks import check_kinds, checked_normalization

#: Mean and standard deviation per channel.
Pair = tuple[Sequence[float], Sequence[float]]


class Normalization:
    """`(images - mean) / std` for images in [0, 1], and the way back.

    The arithmetic is in float32 at least, the result in the images' dtype.

    Args:
        mean: Mean per channel, in units of [0, 1].
        std: Standard deviation per channel, in units of [0, 1], above 0.
        name: Of the argument that they come from, for errors.

    Attributes:
        mean: Tuple of floats.
        std: Tuple of floats.

    Raises:
        TypeError: If mean or std is not a sequence of numbers.
        ValueError: If the lengths differ, a std is not positive or a value is not in units of [0, 1].

    Example:
        >>> import torch
        >>> from hard_aug.models import Normalization
        >>> normalization = Normalization((0.5,), (0.25,))
        >>> normalization.normalize(torch.ones(1, 1, 1, 1))
        tensor([[[[2.]]]])
        >>> normalization.denormalize(torch.full((1, 1, 1, 1), 2.0))
        tensor([[[[1.]]]])
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, name: str = "normalization") -> None:
        try:
            mean, std = [float(value) for value in mean], [float(value) for value in std]
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name}: expected a number for each channel in mean and in std, got mean={mean!r}, std={std!r}; "
                "for example mean=(0.5,), std=(0.5,) for grey images"
            ) from error
        mean, std = checked_normalization(mean, std, name=name)
        self.mean: tuple[float, ...] = tuple(mean)
        self.std: tuple[float, ...] = tuple(std)
        # By device and dtype: making a tensor of numbers on a GPU synchronises with it.
        self._tensors: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def normalize(self, images: Tensor) -> Tensor:
        """Return `(images - mean) / std`, a new tensor. Gradients: images yes.

        Args:
            images: `(B, C, H, W)`, floating point.

        Raises:
            ValueError: If the images have another number of channels.
        """
        mean, std = self._tensors_for(images)
        return ((images - mean) / std).to(images.dtype)

    def denormalize(self, images: Tensor) -> Tensor:
        """Return `images * std + mean`, a new tensor. Gradients: images yes.

        Args:
            images: `(B, C, H, W)`, floating point.

        Raises:
            ValueError: If the images have another number of channels.
        """
        mean, std = self._tensors_for(images)
        return (images * std + mean).to(images.dtype)

    def _tensors_for(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std, `(C, 1, 1)`, which promote half precision to float32."""
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ValueError(
                f"expected images of shape (B, {len(self.mean)}, H, W) for {self!r}, got {tuple(images.shape)}"
            )
        key = images.device, torch.promote_types(images.dtype, torch.float32)
        if key not in self._tensors:
            device, dtype = key
            with torch.inference_mode(False):  # they serve later calls too
                self._tensors[key] = (
                    torch.tensor(self.mean, dtype=dtype, device=device)[:, None, None],
                    torch.tensor(self.std, dtype=dtype, device=device)[:, None, None],
                )
        return self._tensors[key]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Normalization) and (self.mean, self.std) == (other.mean, other.std)

    def __hash__(self) -> int:
        return hash((self.mean, self.std))

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_tensors": {}}

    def __repr__(self) -> str:
        return f"Normalization(mean=({_listed(self.mean)}), std=({_listed(self.std)}))"


class NetworkNormalizations(NamedTuple):
    """The normalisation that each network was trained with.

    Attributes:
        teacher: The teacher's.
        student: The student's, which is also that of the loader.

    Example:
        >>> from hard_aug.models import NetworkNormalizations
        >>> both = NetworkNormalizations.parse(((0.5,), (0.25,)))
        >>> both.teacher == both.student
        True
    """

    teacher: Normalization
    student: Normalization

    @classmethod
    def parse(cls, given: object, *, name: str = "normalization") -> NetworkNormalizations:
        """Build it from what a caller may write.

        Args:
            given: `(mean, std)` for both networks, `{"teacher": (mean, std), "student": (mean, std)}`, or a
                `Normalization` in place of either pair.
            name: Of the argument, for errors.

        Raises:
            TypeError: If it is something else.
            ValueError: If a pair is not a valid normalisation.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            one = _parse_pair(given, name)
            return cls(one, one)
        if set(given) != {"teacher", "student"} or None in given.values():
            raise TypeError(
                f'{name}={given!r}: expected (mean, std), or {{"teacher": (mean, std), "student": (mean, std)}}. If '
                "one network takes images in [0, 1], wrap it, Normalized(network, (0.0,) * C, (1.0,) * C) for C "
                "channels, and give (mean, std) alone"
            )
        return cls(*(_parse_pair(given[key], f'{name}["{key}"]') for key in ("teacher", "student")))


def _parse_pair(given: Any, name: str) -> Normalization:
    if isinstance(given, Normalization):
        return given
    try:
        mean, std = given
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}={given!r}: expected (mean, std), with a number for each channel in both") from error
    return Normalization(mean, std, name=name)


class Normalized(nn.Module):
    """`model((images - mean) / std)` for images in [0, 1].

    Teacher and student may have different normalisations. Gradients: images yes, parameters of the model yes.

    Args:
        model: A network `(B, C, h, w) -> (B, K)`.
        mean: Mean per channel, in units of [0, 1].
        std: Standard deviation per channel, in units of [0, 1], above 0.
        size: Image size `(h, w)` that the network expects; other images are resized (bilinear, antialiased). None:
            images are not resized.

    Raises:
        ValueError: If the lengths differ, a std is not positive or a value is not finite; at a call, if the images have
            another number of channels.

    Example:
        >>> import torch
        >>> from hard_aug import Normalized
        >>> model = Normalized(torch.nn.Identity(), mean=(0.5,), std=(0.25,))
        >>> model(torch.ones(1, 1, 1, 1))
        tensor([[[[2.]]]])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        check_kinds(model=(model, nn.Module))
        checked = Normalization(mean, std, name="Normalized")
        self.model, self.size = model, size
        self.register_buffer("mean", torch.tensor(checked.mean, dtype=torch.float32, device="cpu")[:, None, None])
        self.register_buffer("std", torch.tensor(checked.std, dtype=torch.float32, device="cpu")[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits `(B, K)` for images `(B, C, H, W)` in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ValueError(f"expected images of shape (B, {len(self.mean)}, H, W), got {tuple(images.shape)}")
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        return self.model((images - self.mean.to(images.dtype)) / self.std.to(images.dtype))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Format mean, std and size."""
        mean, std = (_listed(kept.flatten().tolist()) for kept in (self.mean, self.std))
        return f"mean=({mean}), std=({std}), size={self.size}"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
