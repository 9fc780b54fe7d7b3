"""What a transform is: a differentiable function of images and explicit per-sample parameters `u`.

`u` is unbounded. The squash `value = centre + range * (2 Phi(u) - 1)`, with Phi the normal distribution function and
in log space for factors, keeps every physical value in its range, and makes `u ~ N(0, 1)` exactly the uniform
distribution over that range: random augmentation is one setting of the same transform. Strengths, which have their
identity at an end, are folded: `value = low + (high - low) |2 Phi(u) - 1|`. Then too `u = 0` is the identity and
`u ~ N(0, 1)` uniform.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hard_aug.ops.compose import Plan
from hard_aug.ops.compose.plan import Stage
from hard_aug.ops.compose.reference import unit_interval
from hard_aug.ops.warp_color.reference import clamp_with_gradient

#: Names of parameters that an error lists: a transform of noise has thousands.
NAMES_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a transform.

    Attributes:
        name: its name, unique within a transform.
        low, high: its range in physical units.
        identity: the value at which it does nothing; reached at `u = 0`.
        unit: "degrees", "fraction of width", "factor", ...
        logarithmic: whether the range is spanned in log space (factors).
        block: parameters of one block may be correlated by a policy.
        one_sided: whether the identity is `low`, and values are folded there.
        start: the standard deviation of `u` that a policy starts with, unless it is told another.
    """

    name: str
    low: float
    high: float
    identity: float
    unit: str
    logarithmic: bool = False
    block: str = "default"
    one_sided: bool = False
    start: float = 0.3


@dataclass(frozen=True, slots=True)
class Context:
    """What some transforms need beyond images and `u`; with it a batch can be replayed.

    Attributes:
        labels: `(B,)` integers, where the caller has them.
        partner_images: `(B, C, H, W)`, what `PatchMix` mixes in: the batch in another order.
        partner_logits: `(B, K)`, the teacher's on these.
        noise: `(B, C, H, W)`, standard normal, what `Filter(noise=...)` adds.
    """

    labels: Tensor | None = None
    partner_images: Tensor | None = None
    partner_logits: Tensor | None = None
    noise: Tensor | None = None

    def first(self, count: int) -> Context:
        """That of the first `count` images; the very same where those are all."""
        if all(value is None or len(value) == count for value in self._values()):
            return self
        return self.rows(slice(count))

    def rows(self, rows: slice) -> Context:
        """That of some of the images."""
        return Context(*(None if value is None else value[rows] for value in self._values()))

    def _values(self) -> tuple[Tensor | None, ...]:
        return self.labels, self.partner_images, self.partner_logits, self.noise


def squash(u: Tensor, spec: tuple[Parameter, ...]) -> dict[str, Tensor]:
    """Physical values `(B,)` by name from `u`, `(B, P)`; bounds hold for any finite `u`."""
    fraction = unit_interval(u)
    values = {}
    for column, parameter in zip(fraction.unbind(1), spec, strict=True):
        low, high = parameter.low, parameter.high
        if parameter.one_sided:
            values[parameter.name] = low + (high - low) * column.abs()
            continue
        if parameter.logarithmic:
            low, high = math.log(low), math.log(high)
        value = (low + high) / 2 + (high - low) / 2 * column
        values[parameter.name] = value.exp() if parameter.logarithmic else value
    return values


def plan_of(stage: Stage, spec: tuple[Parameter, ...], *, focal_length: float = 1.0) -> Plan:
    """How `ops.compose` makes the matrices of a built-in stage from its columns of `u`."""
    ranges = {}
    for column, parameter in enumerate(spec):
        low, high = parameter.low, parameter.high
        ranges[parameter.name] = (column, *((math.log(low), math.log(high)) if parameter.logarithmic else (low, high)))
    return Plan.of(stage, ranges, focal_length=focal_length)


class Transform(ABC):
    """A differentiable function `(images, u, context) -> images`.

    Subclasses set `spec` and define `apply`; spatial ones define `inverse_map` and colour ones `color_matrix` too,
    which lets `Compose` join them into one gather and one matrix.
    """

    spec: tuple[Parameter, ...]

    @property
    def size(self) -> int:
        """The number P of parameters: the width of `u`."""
        return len(self.spec)

    @property
    def bounded(self) -> bool:
        """Whether images in [0, 1] stay in [0, 1] by construction."""
        return False

    @property
    def wants_partner(self) -> bool:
        """Whether it mixes in other images of the batch, `Context.partner_images`."""
        return False

    @property
    def wants_noise(self) -> bool:
        """Whether it adds noise, `Context.noise`."""
        return False

    @property
    def wants_labels(self) -> bool:
        """Whether it can't do without `Context.labels`."""
        return False

    def reference(self, logits: Tensor, u: Tensor, context: Context) -> Tensor:
        """What the teacher's answer to the transformed image is compared with, as logits `(B, K)`.

        Args:
            logits: `(B, K)`, the teacher's on the clean images: the answer for all transforms that do not mix.
            u: `(B, P)`.
            context: with `partner_logits` for those that do.
        """
        return logits

    def decode(self, u: Tensor) -> dict[str, Tensor]:
        """Physical values, `(B,)` each, by parameter name, from `u`, `(B, P)`."""
        self._check_parameters(u)
        return squash(u, self.spec)

    def check_channels(self, channels: int) -> None:  # noqa: B027 - most transforms take any
        """Raise `ValueError` if images of so many channels can't be transformed."""

    def faults(self) -> list[str]:
        """What was not finite in its networks on a GPU since the last call; see `HardAugmenter.check`."""
        return []

    @abstractmethod
    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """Transform checked input; see `__call__`."""

    def apply_clamped(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """Transform checked input; see `render`. Those that can clamp on their way do."""
        out = self.apply(images, u, context)
        return out if self.bounded else clamp_with_gradient(out)

    def __call__(self, images: Tensor, u: Tensor, context: Context | None = None) -> Tensor:
        """Transform `images`, `(B, C, H, W)` in [0, 1], by `u`, `(B, P)`; the output has the shape of `images`.

        Raises:
            TypeError: images that are not floating point.
            ValueError: wrong rank, wrong width of `u`, other batch size, or channels that the transform can't take.
            FloatingPointError: of those with networks inside, what overflows in these. (On a GPU see `faults`.)

        Gradients: images yes, parameters yes, second order no.
        """
        self._check(images, u)
        with torch.autocast(images.device.type, enabled=False):  # coordinates want more than half precision
            return self.apply(images, u, context or Context())

    def render(self, images: Tensor, u: Tensor, context: Context | None = None) -> Tensor:
        """`__call__`, clamped to [0, 1]. The gradient passes as if nothing had been clamped."""
        self._check(images, u)
        with torch.autocast(images.device.type, enabled=False):
            return self.apply_clamped(images, u, context or Context())

    def _check(self, images: Tensor, u: Tensor) -> None:
        if images.ndim != 4:
            raise ValueError(
                f"{type(self).__name__} wants images of shape (B, C, H, W), got {tuple(images.shape)}; "
                "add a batch or channel axis with images[None]"
            )
        if not images.is_floating_point():
            raise TypeError(f"images are {images.dtype}: wanted floating point in [0, 1]; use images.float() / 255")
        self._check_parameters(u)
        if len(u) != len(images):
            raise ValueError(f"got {len(images)} images and u for {len(u)}: they must be equal in number")
        self.check_channels(images.shape[1])

    def _check_parameters(self, u: Tensor) -> None:
        if u.ndim != 2 or u.shape[1] != self.size:
            names = ", ".join(parameter.name for parameter in self.spec[:NAMES_SHOWN])
            more = f", ... ({self.size} in all)" if self.size > NAMES_SHOWN else ""
            raise ValueError(
                f"{type(self).__name__} wants u of shape (B, {self.size}), got {tuple(u.shape)}; "
                f"its parameters are {names}{more}"
            )


class SpatialTransform(Transform):
    """A transform that moves pixels by a 3x3 map per sample."""

    #: Whether the last row of the map counts; otherwise it is (0, 0, 1).
    projective: bool = False

    @abstractmethod
    def inverse_map(self, u: Tensor, height: int, width: int) -> Tensor:
        """`(B, 3, 3)` projective maps from output to input positions, in pixels from the image's centre."""


class DisplacementTransform(Transform):
    """A transform that moves pixels by a smooth field, given at the points of a coarse grid."""

    @abstractmethod
    def displacement(self, u: Tensor, height: int, width: int) -> Tensor:
        """`(B, 2, h, w)`: by how many pixels the positions that are read move, x before y; see `ops.warp_color`."""


class ColorTransform(Transform):
    """A transform that recolours pixels by an affine map of the channels per sample."""

    @abstractmethod
    def color_matrix(self, u: Tensor, channels: int) -> Tensor:
        """`(B, C, C + 1)`: linear part and offset."""
