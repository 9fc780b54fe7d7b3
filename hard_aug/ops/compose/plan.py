"""Plan: the columns of `u` and the ranges of the parameters of the built-in spatial and colour stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Stage = Literal["affine", "perspective", "color"]

#: Every parameter that the kernels know, in the order of their arguments, with the stage it belongs to.
SLOTS: dict[str, Stage] = {
    "translation_x": "affine",
    "translation_y": "affine",
    "rotation": "affine",
    "scale_x": "affine",
    "scale_y": "affine",
    "shear": "affine",
    "tilt_x": "perspective",
    "tilt_y": "perspective",
    "brightness": "color",
    "contrast": "color",
    "saturation": "color",
    "hue": "color",
}
#: Factors: their ranges are spanned in log space.
LOGARITHMIC = ("scale_x", "scale_y", "contrast", "saturation")


@dataclass(frozen=True, slots=True)
class Plan:
    """Description of how `u`, `(B, P)`, is decoded to a map and a colour matrix.

    The value of a parameter is `centre + half * (2 Phi(u) - 1)`, and the exponential of that for factors.

    Attributes:
        stages: in the order in which they are applied, each at most once, colour last.
        columns: the column of `u` of each slot; -1 where a parameter is switched off and has its identity value.
        centres: the centre of the range of each slot, in physical units or their logarithms; 0 where switched off.
        halves: half the width of the range of each slot, in the units of `centres`.
        focal_length: of the perspective, in units of the longer side.

    Example:
        >>> from hard_aug.transforms import Affine, Color
        >>> affine, color = Affine().plan, Color().plan
        >>> affine.then(color.shifted(6)).stages
        ('affine', 'color')
    """

    stages: tuple[Stage, ...]
    columns: tuple[int, ...]
    centres: tuple[float, ...]
    halves: tuple[float, ...]
    focal_length: float = 1.0

    @classmethod
    def from_ranges(
        cls, stage: Stage, ranges: Mapping[str, tuple[int, float, float]], *, focal_length: float = 1.0
    ) -> Plan:
        """Make the plan of one stage.

        Args:
            stage: "affine", "perspective" or "color".
            ranges: by parameter, its column and its lowest and highest value (for factors: their logarithms).
            focal_length: of the perspective, in units of the longer side.
        """
        known = {name: ranges.get(name, (-1, 0.0, 0.0)) for name in SLOTS}
        return cls(
            (stage,),
            tuple(column for column, _, _ in known.values()),
            tuple((low + high) / 2 for _, low, high in known.values()),
            tuple((high - low) / 2 for _, low, high in known.values()),
            focal_length,
        )

    def shifted(self, columns: int) -> Plan:
        """Return the plan for a `u` with `columns` more columns in front."""
        return replace(self, columns=tuple(c + columns if c >= 0 else c for c in self.columns))

    def then(self, other: Plan) -> Plan | None:
        """Return the plan of both, one after the other; None if a stage would come twice, or a map after colours."""
        if set(self.stages) & set(other.stages) or "color" in self.stages:
            return None
        mine = [column >= 0 for column in self.columns]

        def joined(own: tuple[float, ...], theirs: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(a if is_mine else b for a, b, is_mine in zip(own, theirs, mine, strict=True))

        return Plan(
            (*self.stages, *other.stages),
            tuple(a if is_mine else b for a, b, is_mine in zip(self.columns, other.columns, mine, strict=True)),
            joined(self.centres, other.centres),
            joined(self.halves, other.halves),
            self.focal_length if "perspective" in self.stages else other.focal_length,
        )

    @property
    def maps(self) -> tuple[Stage, ...]:
        """Stages that move pixels."""
        return tuple(stage for stage in self.stages if stage != "color")

    @property
    def colors(self) -> bool:
        """Whether a stage recolours."""
        return "color" in self.stages
