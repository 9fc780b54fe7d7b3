"""Narrowed: another transform with narrower ranges, which need not be symmetric about the identity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hard_aug.ops.elementwise import at_fraction, scale_sides, unit_interval
from hard_aug.transforms.base import Transform
from hard_aug.transforms.context import Context
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.checks import check_kinds


class Narrowed(Transform):
    """The transform `inner` within given ranges around the identity. `u = 0` is the identity.

    Draws that are uniform, `u ~ N(0, 1)`, lie below the identity as often as above it, uniformly on each side.
    Gradients: images yes, parameters yes, second order no.

    Args:
        inner: A transform.
        ranges: By name of a parameter, or of a group for all of its parameters, the lowest and the highest value, in
            the parameter's unit. They contain the identity and lie inside the range of `inner`. The others stay as they
            are. `(identity, identity)` switches a parameter off.

    Attributes:
        reach: `(P, 2)`, the part of each range of `inner` that is used below and above the identity, in [0, 1].

    Raises:
        TypeError: If `inner` is not a transform.
        ValueError: If a name is unknown, or a range is no pair, is not inside that of `inner` or excludes the identity.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Affine, Narrowed
        >>> transform = Narrowed(Affine(), {"rotation": (-5.0, 20.0)})
        >>> transform.decode(torch.full((1, 6), 9.0))["rotation"]
        tensor([20.0000])
    """

    inner: Transform
    ranges: Mapping[str, tuple[float, float]]

    def __init__(self, inner: Transform, ranges: Mapping[str, tuple[float, float]]) -> None:
        check_kinds(inner=(inner, Transform))
        ranges = _by_parameter(inner.spec, ranges)
        if isinstance(inner, Narrowed):
            ranges, inner = {**inner.ranges, **ranges}, inner.inner
        reach = [fractions_of(p, *ranges[p.name]) if p.name in ranges else (1.0, 1.0) for p in inner.spec]
        self.inner, self.ranges = inner, ranges
        self.reach = torch.tensor(reach, dtype=torch.float32, device="cpu")
        self._reach: dict[torch.device, Tensor] = {}
        self.spec = tuple(
            replace(p, low=ranges[p.name][0], high=ranges[p.name][1]) if p.name in ranges else p for p in inner.spec
        )

    def __repr__(self) -> str:
        ranges = ", ".join(f"{name!r}: ({low:.4g}, {high:.4g})" for name, (low, high) in self.ranges.items())
        return f"{type(self).__name__}({self.inner!r}, {{{ranges}}})"

    @property
    def bounded(self) -> bool:
        """See `Transform.bounded`."""
        return self.inner.bounded

    @property
    def requires_partner(self) -> bool:
        """See `Transform.requires_partner`."""
        return self.inner.requires_partner

    @property
    def requires_noise(self) -> bool:
        """See `Transform.requires_noise`."""
        return self.inner.requires_noise

    @property
    def requires_labels(self) -> bool:
        """See `Transform.requires_labels`."""
        return self.inner.requires_labels

    def check_channels(self, channels: int) -> None:
        """See `Transform.check_channels`."""
        self.inner.check_channels(channels)

    def pop_nonfinite_reports(self) -> list[str]:
        """See `Transform.pop_nonfinite_reports`."""
        return self.inner.pop_nonfinite_reports()

    def reference(self, logits: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.reference`."""
        return self.inner.reference(logits, self.inner_u(u), context)

    def decode(self, u: Tensor) -> dict[str, Tensor]:
        """See `Transform.decode`."""
        self._check_parameters(u)
        return self.inner.decode(self.inner_u(u))

    def inner_u(self, u: Tensor) -> Tensor:
        """Return the parameters `(B, P)` of `inner` that correspond to `u`, `(B, P)`."""
        fraction = unit_interval(u)
        if fraction.device not in self._reach:  # a copy synchronises with a GPU
            with torch.inference_mode(False):  # a first call that evaluates must not leave an inference tensor
                self._reach[fraction.device] = self.reach.to(fraction.device, copy=True)
        return at_fraction(scale_sides(fraction, self._reach[fraction.device].to(fraction.dtype)))

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.apply`."""
        return self.inner.apply(images, self.inner_u(u), context)

    def apply_clamped(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.apply_clamped`."""
        return self.inner.apply_clamped(images, self.inner_u(u), context)


def fractions_of(parameter: Parameter, low: float, high: float) -> tuple[float, float]:
    """Return which part of a parameter's range, below and above its identity, a narrower range uses; in [0, 1].

    Raises:
        ValueError: If it is not inside the parameter's range, or excludes the identity.
    """
    if not parameter.low - 1e-6 <= low <= parameter.identity <= high <= parameter.high + 1e-6:
        raise ValueError(
            f"{parameter.name}=({low:g}, {high:g}): expected a range inside ({parameter.low:g}, {parameter.high:g}) "
            f"that contains the identity, {parameter.identity:g}"
        )
    scale = math.log if parameter.logarithmic else float
    ends = [scale(value) for value in (parameter.low, low, parameter.identity, high, parameter.high)]
    below = (ends[2] - ends[1]) / (ends[2] - ends[0]) if ends[0] < ends[2] else 0.0
    above = (ends[3] - ends[2]) / (ends[4] - ends[2]) if ends[4] > ends[2] else 0.0
    return (above, above) if parameter.one_sided else (min(below, 1.0), min(above, 1.0))


def range_at(parameter: Parameter, below: float, above: float) -> tuple[float, float]:
    """Return the range that uses a part of a parameter's range below and above its identity: from `fractions_of`."""
    low, identity, high = parameter.low, parameter.identity, parameter.high
    if parameter.logarithmic:
        return identity * (low / identity) ** below, identity * (high / identity) ** above
    if parameter.one_sided:
        return identity, identity + (high - identity) * above
    return identity - (identity - low) * below, identity + (high - identity) * above


def _by_parameter(
    spec: tuple[Parameter, ...], ranges: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Return the checked ranges by parameter, for ranges by parameter or group."""
    names, groups = {p.name for p in spec}, {p.group for p in spec}
    pairs: dict[str, tuple[float, float]] = {}
    for name, ends in ranges.items():
        if name not in names | groups:
            raise ValueError(f"{name!r} is no parameter or group; expected some of {', '.join(sorted(groups))}")
        try:
            low, high = ends
        except (TypeError, ValueError):
            expected = "the lowest and the highest value, such as (-5.0, 20.0)"
            raise ValueError(f"{name}={ends!r}: expected {expected}") from None
        pairs[name] = float(low), float(high)
    given = {**{p.name: pairs[p.group] for p in spec if p.group in pairs and p.group not in names}, **pairs}
    for parameter in spec:
        if parameter.name in given:
            fractions_of(parameter, *given[parameter.name])
    return {p.name: given[p.name] for p in spec if p.name in given}
