"""Calibration: the ranges of a transform in which a teacher keeps its predictions, as numbers, a table, a transform."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hard_aug.transforms import Narrowed, Transform
from hard_aug.transforms.narrowed import range_at
from hard_aug.transforms.spec import columns_by_group
from hard_aug.utils.state_checks import check_like
from hard_aug.utils.text_table import aligned

#: Groups with more parameters than this have one reach for all.
MAX_SINGLE = 8
#: What a state holds besides the two tensors.
NUMBERS = ("keep", "joint_scale", "joint_kept", "joint_keep", "images", "evaluations")


@dataclass(frozen=True, slots=True)
class CalibratedParameter:
    """One row of a calibration: a parameter, or a group of many parameters with one reach for all.

    Attributes:
        name: Name of the parameter or group.
        group: Name of its group.
        unit: Unit of the values.
        low: Lowest value of the calibrated range.
        high: Highest value of the calibrated range.
        full_low: Lowest value of the transform's range.
        full_high: Highest value of the transform's range.
        below: Part of the transform's range below the identity that is kept, in [0, 1].
        above: Part of the transform's range above the identity that is kept, in [0, 1].
        kept_below: Fraction of predictions that are kept at the lower end; NaN if there is no part below.
        kept_above: The same at the upper end.

    Example:
        >>> import torch
        >>> from hard_aug import calibrate
        >>> from hard_aug.transforms import Color
        >>> def is_bright(images):
        ...     above = 100 * (images.mean((1, 2, 3)) - 0.5)
        ...     return torch.stack((above, -above), 1)
        >>> row = calibrate(is_bright, torch.full((64, 1, 8, 8), 0.7), Color(brightness=0.5, contrast=None)).rows[0]
        >>> row.name, row.above, row.full_high
        ('brightness', 1.0, 0.5)
    """

    name: str
    group: str
    unit: str
    low: float
    high: float
    full_low: float
    full_high: float
    below: float
    above: float
    kept_below: float
    kept_above: float


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The result of `calibrate`; printed, it is a table.

    Attributes:
        transform: The transform, with its full ranges.
        reach: `(P, 2)`, the part of each range below and above the identity, in (0, 1]: each group by itself.
        kept: `(P, 2)`, the fraction of predictions that the teacher keeps at these ends, before a group of several
            parameters is narrowed as a whole. It is below `keep` where not even 1/64 of the range is tolerated.
        keep: Fraction of predictions that were to be kept at the end of each range.
        joint_scale: Factor of `reach`, in (0, 1], at which draws of all parameters together keep `joint_keep`.
        joint_kept: Fraction of predictions that they keep there.
        joint_keep: Fraction that they were to keep.
        images: Number of images that were used.
        evaluations: Number of forwards of single images of the teacher.

    Example:
        >>> import torch
        >>> from hard_aug import calibrate
        >>> from hard_aug.transforms import Affine
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> result = calibrate(network, torch.rand(8, 1, 8, 8), Affine())
        >>> result.reach.shape, result.narrowed().size
        (torch.Size([6, 2]), 6)
    """

    transform: Transform
    reach: Tensor
    kept: Tensor
    keep: float
    joint_scale: float
    joint_kept: float
    joint_keep: float
    images: int
    evaluations: int

    @property
    def rows(self) -> tuple[CalibratedParameter, ...]:
        """One row for each parameter, or for each group of more than eight."""
        spec, rows = self.transform.spec, []
        for name, columns in columns_by_group(spec).items():
            whole = len(columns) > MAX_SINGLE
            for column in columns[:1] if whole else columns:
                parameter, (below, above) = spec[column], self.reach[column].tolist()
                low, high = range_at(parameter, below, above)
                kept_below, kept_above = self.kept[column].tolist()
                rows.append(
                    CalibratedParameter(
                        name=name if whole else parameter.name,
                        group=name,
                        unit=parameter.unit,
                        low=low,
                        high=high,
                        full_low=parameter.low,
                        full_high=parameter.high,
                        below=below,
                        above=above,
                        kept_below=math.nan if parameter.one_sided else kept_below,
                        kept_above=kept_above,
                    )
                )
        return tuple(rows)

    def ranges(self, *, joint: bool = False) -> dict[str, tuple[float, float]]:
        """Return the lowest and highest value by parameter.

        Args:
            joint: Whether they are those for all parameters together, `joint_scale` of the others.
        """
        reach = self.reach * self.joint_scale if joint else self.reach
        return {
            parameter.name: range_at(parameter, *sides)
            for parameter, sides in zip(self.transform.spec, reach.tolist(), strict=True)
        }

    def narrowed(self) -> Narrowed:
        """Return the transform within the joint ranges, for random augmentation by uniform draws."""
        return self.transform.narrowed(self.ranges(joint=True))

    def __str__(self) -> str:
        return (
            f"{self.table()}\n"
            f"At the end of each range the teacher keeps {100 * self.keep:.0f} % of the probability of its predictions "
            f"for {self.images} images;\non uniform draws of all parameters together {100 * self.joint_kept:.0f} %, at "
            f"{self.joint_scale:.2f} of these ranges."
        )

    def table(self) -> str:
        """Format a plain-text table: calibrated and full ranges, and the part of the full one that is kept."""
        head = ("parameter", "unit", "calibrated range", "full range", "below", "above")
        lines = [
            (
                row.name,
                row.unit,
                f"{row.low:.3g} to {row.high:.3g}",
                f"{row.full_low:.3g} to {row.full_high:.3g}",
                "" if math.isnan(row.kept_below) else f"{100 * row.below:.0f} %",
                f"{100 * row.above:.0f} %",
            )
            for row in self.rows
        ]
        return aligned([head, *lines])

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, for JSON, which has no NaN: `kept_below` is None then."""
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            row["kept_below"] = None if math.isnan(row["kept_below"]) else row["kept_below"]
        return {"rows": rows, **{name: getattr(self, name) for name in NUMBERS}}

    def state_dict(self) -> dict[str, Any]:
        """Return the two tensors and the numbers."""
        return {"reach": self.reach.clone(), "kept": self.kept.clone()} | {
            name: getattr(self, name) for name in NUMBERS
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], transform: Transform) -> Calibration:
        """Return the calibration of a transform from a `state_dict()`.

        Raises:
            ValueError: If it is of a transform with other parameters, or has values of another kind or out of range.
        """
        pair = torch.zeros(transform.size, 2, dtype=torch.float32, device="cpu")
        check_like(state, {"reach": pair, "kept": pair, **dict.fromkeys(NUMBERS, 0.0)}, "calibration")
        reach, kept = (state[name].to("cpu", torch.float32, copy=True) for name in ("reach", "kept"))
        if not bool(((reach > 0) & (reach <= 1) & (kept >= 0) & (kept <= 1)).all()):
            raise ValueError("calibration: expected reach in (0, 1] and kept in [0, 1]")
        return cls(transform=transform, **{**state, "reach": reach, "kept": kept})
