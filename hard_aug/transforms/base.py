"""Base classes of transforms: differentiable functions of images and explicit per-sample parameters `u`.

`transforms.spec` describes the parameters and how `u` becomes physical values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hard_aug.ops import warp_color
from hard_aug.ops.compose import Plan, compose_map
from hard_aug.ops.elementwise import clamp_with_gradient
from hard_aug.ops.warp_color import PaddingMode
from hard_aug.transforms.context import Context
from hard_aug.transforms.spec import Parameter, squash
from hard_aug.utils.settings_repr import SettingsRepr

if TYPE_CHECKING:
    from hard_aug.transforms.narrowed import Narrowed

#: Number of parameter names that an error message lists; some transforms have thousands.
NAMES_SHOWN = 12


class Transform(SettingsRepr, ABC):
    """A differentiable function `(images, u, context) -> images`.

    Subclasses set `spec` and define `apply`. Spatial transforms also define `inverse_map` and colour transforms
    `color_matrix`, so that `Compose` can merge neighbouring transforms into one gather and one colour matrix.

    Example:
        >>> from hard_aug.transforms import Parameter, Transform
        >>> class Invert(Transform):
        ...     spec = (Parameter("inversion", low=0.0, high=1.0, identity=0.0, unit="fraction", one_sided=True),)
        ...
        ...     def apply(self, images, u, context):
        ...         fraction = self.decode(u)["inversion"].view(-1, 1, 1, 1)
        ...         return images + fraction * (1 - 2 * images)
        >>> Invert()(torch.ones(2, 1, 1, 1), torch.tensor([[0.0], [9.0]])).flatten()
        tensor([1., 0.])
    """

    spec: tuple[Parameter, ...]

    @property
    def size(self) -> int:
        """Number P of parameters, the width of `u`."""
        return len(self.spec)

    @property
    def bounded(self) -> bool:
        """Whether images in [0, 1] stay in [0, 1] by construction."""
        return False

    @property
    def requires_partner(self) -> bool:
        """Whether the transform mixes in other images of the batch, `Context.partner_images`."""
        return False

    @property
    def requires_noise(self) -> bool:
        """Whether the transform adds noise, `Context.noise`."""
        return False

    @property
    def requires_labels(self) -> bool:
        """Whether the transform requires `Context.labels`."""
        return False

    def reference(self, logits: Tensor, u: Tensor, context: Context) -> Tensor:
        """Return the logits `(B, K)` that the teacher's prediction for the transformed image is compared with.

        Args:
            logits: The teacher's logits on the clean images, `(B, K)`. Unless the transform mixes images, they are
                the reference.
            u: Parameters, `(B, P)`.
            context: Context of the call, with `partner_logits` for transforms that mix images.
        """
        return logits

    def decode(self, u: Tensor) -> dict[str, Tensor]:
        """Return the physical values, `(B,)` each by parameter name, of `u`, `(B, P)`."""
        self._check_parameters(u)
        return squash(u, self.spec)

    def check_channels(self, channels: int) -> None:
        """Raise `ValueError` if images with this number of channels can't be transformed."""

    def narrowed(self, ranges: Mapping[str, tuple[float, float]]) -> Narrowed:
        """Return this transform within narrower ranges; see `Narrowed`.

        Args:
            ranges: By name of a parameter or a group, the lowest and the highest value in the parameter's unit.

        Raises:
            ValueError: If a name is unknown, or a range is not inside the parameter's or excludes its identity.
        """
        from hard_aug.transforms.narrowed import Narrowed  # a subclass of this one

        return Narrowed(self, ranges)

    def pop_nonfinite_reports(self) -> list[str]:
        """Return and clear the reports of non-finite values inside the transform's networks on a GPU.

        See `HardAugmenter.check`.
        """
        return []

    @abstractmethod
    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """Transform checked input; see `__call__`."""

    def apply_clamped(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """Transform checked input and clamp; see `render`. Subclasses override it to clamp in the same kernel."""
        out = self.apply(images, u, context)
        return out if self.bounded else clamp_with_gradient(out)

    def __call__(self, images: Tensor, u: Tensor, context: Context | None = None) -> Tensor:
        """Transform a batch.

        Gradients: images yes, parameters yes, second order no.

        Args:
            images: `(B, C, H, W)`, floating point in [0, 1].
            u: Parameters, `(B, P)`.
            context: Partners, noise and labels, if the transform requires any; see `make_context`.

        Returns:
            Transformed images of the shape and dtype of `images`.

        Raises:
            TypeError: If the images are not floating point.
            ValueError: If the images have the wrong rank or an unsupported number of channels, or if `u` has the
                wrong width or batch size.
            FloatingPointError: If a network inside the transform overflows. (On a GPU see `pop_nonfinite_reports`.)
        """
        self._check(images, u)
        with torch.autocast(images.device.type, enabled=False):  # coordinates need more than half precision
            return self.apply(images, u, context or Context())

    def render(self, images: Tensor, u: Tensor, context: Context | None = None) -> Tensor:
        """Transform a batch and clamp it to [0, 1]; the gradient passes through the clamp unchanged.

        Args:
            images: `(B, C, H, W)`, floating point in [0, 1].
            u: Parameters, `(B, P)`.
            context: Partners, noise and labels, if the transform requires any; see `make_context`.
        """
        self._check(images, u)
        with torch.autocast(images.device.type, enabled=False):
            return self.apply_clamped(images, u, context or Context())

    def _check(self, images: Tensor, u: Tensor) -> None:
        if images.ndim != 4:
            raise ValueError(
                f"{type(self).__name__} expected images of shape (B, C, H, W), got {tuple(images.shape)}; "
                "add a batch or channel axis with images[None]"
            )
        if not images.is_floating_point():
            raise TypeError(f"images: expected floating point in [0, 1], got {images.dtype}; use images.float() / 255")
        self._check_parameters(u)
        if len(u) != len(images):
            raise ValueError(f"images and u: expected equal batch sizes, got {len(images)} and {len(u)}")
        self.check_channels(images.shape[1])

    def _check_parameters(self, u: Tensor) -> None:
        if u.ndim != 2 or u.shape[1] != self.size:
            names = ", ".join(parameter.name for parameter in self.spec[:NAMES_SHOWN])
            more = f", ... ({self.size} in total)" if self.size > NAMES_SHOWN else ""
            raise ValueError(
                f"{type(self).__name__} expected u of shape (B, {self.size}), got {tuple(u.shape)}; "
                f"its parameters are {names}{more}"
            )


class SpatialTransform(Transform):
    """A transform that moves pixels by a 3x3 map per sample.

    Example:
        >>> from hard_aug.ops import warp_color
        >>> from hard_aug.transforms import Parameter, SpatialTransform
        >>> class ShiftX(SpatialTransform):
        ...     spec = (Parameter("shift", low=-4.0, high=4.0, identity=0.0, unit="pixels"),)
        ...
        ...     def inverse_map(self, u, height, width):
        ...         maps = torch.eye(3).repeat(len(u), 1, 1)
        ...         maps[:, 0, 2] = -self.decode(u)["shift"]  # sampled to the left: content moves right
        ...         return maps
        ...
        ...     def apply(self, images, u, context):
        ...         return warp_color(images, inverse_map=self.inverse_map(u, *images.shape[-2:]))
        >>> images = torch.rand(2, 3, 8, 8)
        >>> moved = ShiftX()(images, torch.full((2, 1), 9.0))
        >>> torch.allclose(moved[..., 4:], images[..., :4], atol=1e-4)
        True
    """

    #: Whether the last row of the map is used; otherwise it is (0, 0, 1).
    projective: bool = False

    @abstractmethod
    def inverse_map(self, u: Tensor, height: int, width: int) -> Tensor:
        """Compute the projective maps `(B, 3, 3)` from output to input positions, in pixels from the image centre.

        Args:
            u: Parameters, `(B, P)`.
            height: Height of the images, pixels.
            width: Width of the images, pixels.
        """


class PlannedSpatialTransform(SpatialTransform):
    """A spatial transform whose maps `ops.compose` computes from `u`; subclasses set the attributes.

    Attributes:
        plan: Which columns of `u` are which parameters.
        padding_mode: Fill outside the image: "zeros", "border" or "reflection".
    """

    plan: Plan
    padding_mode: PaddingMode

    @property
    def bounded(self) -> bool:
        """See `Transform.bounded`."""
        return True

    def inverse_map(self, u: Tensor, height: int, width: int) -> Tensor:
        """See `SpatialTransform.inverse_map`."""
        self._check_parameters(u)
        return compose_map(u, self.plan, height=height, width=width)

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.apply`."""
        inverse_map = self.inverse_map(u, *images.shape[-2:])
        return warp_color(images, inverse_map=inverse_map, padding_mode=self.padding_mode, projective=self.projective)


class DisplacementTransform(Transform):
    """A transform that moves pixels by a smooth field, given at the points of a coarse grid.

    Example:
        >>> from hard_aug.ops import warp_color
        >>> from hard_aug.transforms import DisplacementTransform, Parameter
        >>> class Wave(DisplacementTransform):
        ...     spec = (Parameter("amplitude", low=-2.0, high=2.0, identity=0.0, unit="pixels"),)
        ...
        ...     def displacement(self, u, height, width):
        ...         wave = torch.linspace(0, 6.28, 8).sin().expand(4, 8)
        ...         field = torch.stack((torch.zeros_like(wave), wave))  # x before y
        ...         return self.decode(u)["amplitude"].view(-1, 1, 1, 1) * field
        ...
        ...     def apply(self, images, u, context):
        ...         return warp_color(images, displacement=self.displacement(u, *images.shape[-2:]))
        >>> Wave()(torch.rand(2, 3, 16, 16), torch.randn(2, 1)).shape
        torch.Size([2, 3, 16, 16])
    """

    @abstractmethod
    def displacement(self, u: Tensor, height: int, width: int) -> Tensor:
        """Compute the displacement `(B, 2, h, w)` of the sampling positions in pixels, x before y; see `warp_color`.

        Args:
            u: Parameters, `(B, P)`.
            height: Height of the images, pixels.
            width: Width of the images, pixels.
        """


class ColorTransform(Transform):
    """A transform that changes colours by an affine map of the channels per sample.

    Example:
        >>> from hard_aug.ops import warp_color
        >>> from hard_aug.transforms import ColorTransform, Parameter
        >>> class Brighten(ColorTransform):
        ...     spec = (Parameter("offset", low=-0.5, high=0.5, identity=0.0, unit="intensity"),)
        ...
        ...     def color_matrix(self, u, channels):
        ...         offset = self.decode(u)["offset"].view(-1, 1, 1).expand(-1, channels, 1)
        ...         return torch.cat((torch.eye(channels).expand(len(u), -1, -1), offset), dim=2)
        ...
        ...     def apply(self, images, u, context):
        ...         return warp_color(images, color_matrix=self.color_matrix(u, images.shape[1]))
        >>> Brighten()(torch.full((1, 3, 1, 1), 0.25), torch.tensor([[9.0]])).flatten()
        tensor([0.7500, 0.7500, 0.7500])
    """

    @abstractmethod
    def color_matrix(self, u: Tensor, channels: int) -> Tensor:
        """Compute the affine maps `(B, C, C + 1)` of the channels: linear part and offset.

        Args:
            u: Parameters, `(B, P)`.
            channels: Number C of channels.
        """
