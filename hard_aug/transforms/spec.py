"""Parameters of a transform: their ranges, and the squash from unbounded `u` to physical values.

`u` is unbounded. The squash `value = centre + half_range * (2 Phi(u) - 1)`, where Phi is the normal distribution
function, keeps every physical value inside its range (for factors it acts on the logarithm). With `u ~ N(0, 1)` the
values are uniform over that range, so random augmentation is one setting of the same transform. A strength has its
identity at the lower end of its range and is folded: `value = low + (high - low) |2 Phi(u) - 1|`. For it too, `u = 0`
is the identity and `u ~ N(0, 1)` gives the uniform distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from hard_aug.ops.compose import Plan
from hard_aug.ops.compose.plan import Stage
from hard_aug.ops.elementwise import unit_interval


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a transform.

    Attributes:
        name: Name, unique within a transform.
        low: Lower end of the range, in physical units.
        high: Upper end of the range, in physical units.
        identity: Value at which the parameter has no effect; reached at `u = 0`.
        unit: Physical unit: "degrees", "fraction of width", "factor", ...
        logarithmic: Whether the range is covered in log space (factors).
        block: Name of the block; a policy may correlate the parameters of one block.
        one_sided: Whether the identity is `low` and values are folded there.
        start: Initial standard deviation of `u` in a policy that is given no other.
        group: Name of the group of parameters that make one kind of change, such as both translations: they are
            calibrated, used and reported together. Empty: the parameter is a group by itself, of its own name.

    Example:
        >>> from hard_aug.transforms import Parameter
        >>> angle = Parameter("rotation", low=-30.0, high=30.0, identity=0.0, unit="degrees")
        >>> angle.name, angle.high
        ('rotation', 30.0)
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
    group: str = ""

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", self.name)


def columns_by_group(spec: tuple[Parameter, ...]) -> dict[str, list[int]]:
    """Return the columns of `u` of each group of parameters, by its name, in their order."""
    groups: dict[str, list[int]] = {}
    for column, parameter in enumerate(spec):
        groups.setdefault(parameter.group, []).append(column)
    return groups


def squash(u: Tensor, spec: tuple[Parameter, ...]) -> dict[str, Tensor]:
    """Convert `u` to physical values, which stay inside their ranges for any finite `u`.

    Args:
        u: Unbounded parameters, `(B, P)`.
        spec: The P parameters, in the order of the columns of `u`.

    Returns:
        Values `(B,)` by parameter name.
    """
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


def make_plan(stage: Stage, spec: tuple[Parameter, ...], *, focal_length: float = 1.0) -> Plan:
    """Build the plan by which `ops.compose` computes the matrices of a built-in stage from its columns of `u`.

    Args:
        stage: Kind of the stage: "affine", "perspective" or "color".
        spec: Parameters of the stage, in the order of their columns.
        focal_length: Focal length of a "perspective", in units of the longer image side.
    """
    ranges = {}
    for column, parameter in enumerate(spec):
        low, high = parameter.low, parameter.high
        ranges[parameter.name] = (column, *((math.log(low), math.log(high)) if parameter.logarithmic else (low, high)))
    return Plan.from_ranges(stage, ranges, focal_length=focal_length)
