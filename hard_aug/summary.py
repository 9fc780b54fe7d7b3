"""What a policy shows the student: which groups of parameters are in use, how often, how far, and in which ranges.

The numbers are estimated from draws of the policy as it is now, with a generator of their own, so that they are the
same whatever else is drawn. Neither network is run.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hard_aug.calibration import Calibration
from hard_aug.calibration.result import MAX_SINGLE
from hard_aug.inner_loop.exploration import mix_uniform
from hard_aug.ops.elementwise import unit_interval
from hard_aug.policies import GroupBandit, Policy, Search
from hard_aug.transforms import Parameter, Transform
from hard_aug.transforms.narrowed import range_at
from hard_aug.transforms.spec import columns_by_group
from hard_aug.utils.checks import check_kinds
from hard_aug.utils.text_table import aligned

#: Number of draws, fewer for a transform of very many parameters, and the seed of their generator.
DRAWS, FEWEST_DRAWS, MOST_NUMBERS, SEED = 4096, 256, 2**22, 0
#: Part of a range's side from which on a value counts as a change.
CHANGED = 0.01
#: Fraction of the images from which on a group counts as in use.
IN_USE = 0.1


@dataclass(frozen=True, slots=True)
class ParameterSummary:
    """How one parameter is used, or a group of more than eight parameters together.

    Values are in the unit. Those of a whole group are parts of its parameters' ranges, in [-1, 1] with the identity at
    0, or in [0, 1] if they are one-sided.

    Attributes:
        name: Name of the parameter or group.
        group: Name of its group.
        unit: Unit of the values.
        identity: Value that has no effect.
        frequency: Fraction of the images, in [0, 1], on which the group is used.
        drawn: Lowest and highest value. Of a `GroupBandit`: of the range it draws from where it uses the group; of any
            other policy: the 5th and the 95th percentile of all draws.
        size: 95th percentile of the distance to the identity over the draws in which the group is used; of a factor,
            which is counted in the logarithm, the factor. At the identity (0, or a factor of 1) if it is never used.
        calibrated: Lowest and highest value of the calibrated range; None: there is no calibration.
        full: Lowest and highest value of the transform's range.
        logarithmic: Whether the range is covered in log space (factors).

    Example:
        >>> row = ParameterSummary("rotation", "rotation", "degrees", 0.0, 0.8, (-50.0, 45.0), 47.0, None,
        ...     (-180.0, 180.0), False)
        >>> row.position(-45.0)
        -0.25
    """

    name: str
    group: str
    unit: str
    identity: float
    frequency: float
    drawn: tuple[float, float]
    size: float
    calibrated: tuple[float, float] | None
    full: tuple[float, float]
    logarithmic: bool

    def position(self, value: float) -> float:
        """Return where a value lies: -1 at the low end of the full range, 0 at the identity, 1 at the high end."""
        scale = math.log if self.logarithmic else float
        distance = scale(value) - scale(self.identity)
        side = abs(scale(self.full[int(distance > 0)]) - scale(self.identity))
        return distance / side if side else 0.0


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """The result of `HardAugmenter.summary`; printed, it is a table.

    Attributes:
        rows: One for each parameter, or for each group of more than eight; the groups used most often come first.
        policy: Name of the policy's class; of a `Search`, that of its proposal.
        draws: Number of draws that the numbers come from.
        uniform_fraction: Fraction of the draws that were uniform instead of the policy's.
        kept: Fraction of hard images on which the teacher kept its prediction, over about the last 100 calls; None:
            there were none.
        disagreement: Mean of the objective on hard images, over about the last 100 policy updates; None: none so far.
        keep: Fraction of predictions that are kept at the ends of the calibrated ranges; None: no calibration.
        has_ranges: Whether the drawn ranges are those of a `GroupBandit`.

    Example:
        >>> from hard_aug.policies import Uniform
        >>> from hard_aug.transforms import Color
        >>> transform = Color(contrast=None, saturation=None, hue=None)
        >>> summary = summarize(transform, Uniform(transform.spec, scale=0.5))
        >>> [f"{value:.2f}" for value in summary.rows[0].drawn]  # 5 % to 95 % of -0.1 to 0.1
        ['-0.09', '0.09']
        >>> summary.in_use
        ('brightness',)
    """

    rows: tuple[ParameterSummary, ...]
    policy: str
    draws: int
    uniform_fraction: float = 0.0
    kept: float | None = None
    disagreement: float | None = None
    keep: float | None = None
    has_ranges: bool = False

    @property
    def frequencies(self) -> dict[str, float]:
        """Fraction of the images on which each group is used, by its name, the largest first."""
        return {row.group: row.frequency for row in self.rows}

    @property
    def in_use(self) -> tuple[str, ...]:
        """The groups that are used on at least 10 % of the images, the most frequent first."""
        return tuple(name for name, frequency in self.frequencies.items() if frequency >= IN_USE)

    def table(self) -> str:
        """Format a plain-text table."""
        head = ("parameter", "group", "used on", "drawn range", "size", "calibrated range", "full range", "unit")
        lines: list[tuple[str, ...]] = [head]
        for row in self.rows:
            ranges = ["" if ends is None else range_text(*ends) for ends in (row.drawn, row.calibrated, row.full)]
            used = f"{100 * row.frequency:.0f} %"
            group = "" if row.group == row.name else row.group
            lines.append((row.name, group, used, ranges[0], f"{row.size:.3g}", *ranges[1:], row.unit))
        return aligned(lines if self.keep is not None else [line[:5] + line[6:] for line in lines])

    def __str__(self) -> str:
        columns = [
            f"used on: the images on which the group is not at the identity, of {self.draws} draws",
            "drawn range: "
            + (
                f"that which {self.policy} draws from where it uses the group"
                if self.has_ranges
                else f"5th to 95th percentile of what {self.policy} draws"
            ),
            "size: 95 % of the changes are at most that far from the identity (a factor: or its inverse)",
        ]
        if self.uniform_fraction:
            columns[0] += f" ({100 * self.uniform_fraction:.0f} % of which are uniform instead of the policy's)"
        if self.keep is not None:
            columns.append(
                f"calibrated range: at its ends the teacher keeps at least {100 * self.keep:.0f} % of its predictions"
            )
        texts = (f"{'; '.join(columns)}.", f"{self._use()} {self._kept()}")
        return "\n".join([self.table(), *(textwrap.fill(text, 120) for text in texts)])

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, for JSON."""
        return {**asdict(self), "in_use": list(self.in_use)}

    def _use(self) -> str:
        frequencies = self.frequencies
        found = ", ".join(f"{name} ({100 * frequencies[name]:.0f} %)" for name in self.in_use)
        if 1 < len(frequencies) == len(self.in_use):
            found = f"all {len(frequencies)} groups"
        return f"In use on at least {100 * IN_USE:.0f} % of the images: {found or 'no group'}."

    def _kept(self) -> str:
        if self.kept is None:
            return "There were no hard images yet."
        kept = f"{100 * self.kept:.0f} %"
        text = f"On the hard images of about the last 100 calls the teacher keeps {kept} of its predictions"
        if self.disagreement is None:
            return f"{text}."
        return f"{text}; in about the last 100 policy updates the mean disagreement is {self.disagreement:.3g}."


def range_text(low: float, high: float) -> str:
    """Format a range with three digits."""
    return f"{low:.3g} to {high:.3g}"


@torch.no_grad()
def summarize(
    transform: Transform,
    policy: Policy,
    *,
    calibration: Calibration | None = None,
    uniform_fraction: float = 0.0,
    kept: float | None = None,
    disagreement: float | None = None,
    images: Tensor | None = None,
) -> PolicySummary:
    """Summarise how a policy uses a transform.

    A group is used on an image if one of its values is more than 1 % of its range's side away from the identity; by a
    `GroupBandit`, however narrow its ranges are, if that has chosen it. Of a `Search` these are the draws it starts
    from.

    Args:
        transform: What the policy's draws do.
        policy: The policy, which is left as it is.
        calibration: That of the transform, if there is one.
        uniform_fraction: Fraction of the draws that is uniform instead, in [0, 0.95].
        kept: See `PolicySummary`.
        disagreement: See `PolicySummary`.
        images: `(B, C, H, W)` in [0, 1] on the policy's device, for a conditional policy: the summary is over these.

    Raises:
        TypeError: If a part has the wrong class.
        ValueError: If the policy or the calibration is of another transform, or a conditional policy gets no images.
    """
    check_kinds(transform=(transform, Transform), policy=(policy, Policy))
    policy.check_spec(transform.spec)
    if calibration is not None and calibration.transform.spec != transform.spec:
        raise ValueError("calibration: it is of another transform; calibrate this one")
    u = _draws(policy, uniform_fraction, images)
    source = policy.proposal if isinstance(policy, Search) else policy
    bandit = source if isinstance(source, GroupBandit) else None
    chosen = None if bandit is None else bandit.used_groups(u).cpu().numpy()
    positions = _positions(u.cpu(), transform.spec)
    found = []
    for index, (name, columns) in enumerate(columns_by_group(transform.spec).items()):
        moved = np.abs(positions[:, columns])
        used = (moved > CHANGED).any(1) if chosen is None else chosen[:, index] & (moved > 0).any(1)
        for part in [columns] if len(columns) > MAX_SINGLE else [[column] for column in columns]:
            reach, calibrated = (
                None if one is None else one.reach[part].mean(0).tolist() for one in (bandit, calibration)
            )
            found.append(_row(name, [transform.spec[c] for c in part], positions[:, part], used, reach, calibrated))
    return PolicySummary(
        rows=tuple(sorted(found, key=lambda row: -row.frequency)),  # stable: a group's parameters stay together
        policy=type(source).__name__,
        draws=len(u),
        uniform_fraction=uniform_fraction,
        kept=kept,
        disagreement=disagreement,
        keep=None if calibration is None else calibration.keep,
        has_ranges=bandit is not None,
    )


def _draws(policy: Policy, uniform_fraction: float, images: Tensor | None) -> Tensor:
    """Draw `u`, `(N, P)`, from a generator of its own."""
    device = policy.one_sided.device
    generator = torch.Generator(device).manual_seed(SEED)
    count = max(FEWEST_DRAWS, min(DRAWS, MOST_NUMBERS // policy.size))
    if not policy.is_conditional:  # only their number counts
        images = torch.zeros((1, 1, 1, 1), dtype=torch.float32, device=device).expand(count, 1, 1, 1)
    elif images is None or not len(images):
        raise ValueError(
            f"{type(policy).__name__} has another distribution for each image: give images, as in "
            "augmenter.summary(images)"
        )
    fraction = torch.full((), uniform_fraction, dtype=torch.float32, device=device)
    with torch.autocast(device.type, enabled=False):
        return torch.cat(
            [
                mix_uniform(policy.sample(images, generator), fraction, generator).u
                for _ in range(math.ceil(count / len(images)))
            ]
        )


def _positions(u: Tensor, spec: tuple[Parameter, ...]) -> np.ndarray:
    """Return the positions `(N, P)` in the ranges, as `ParameterSummary.position`; 0 on a side that has no width."""
    positions: np.ndarray = unit_interval(u).numpy()
    one_sided = np.array([parameter.one_sided for parameter in spec])
    positions = np.where(one_sided, np.abs(positions), positions)
    below, above = (np.array([p.low < p.identity for p in spec]), np.array([p.high > p.identity for p in spec]))
    return positions * np.where(positions > 0, above, below)


def _row(
    group: str,
    parameters: Sequence[Parameter],
    positions: np.ndarray,
    used: np.ndarray,
    reach: Sequence[float] | None,
    calibrated: Sequence[float] | None,
) -> ParameterSummary:
    """Return the row of one parameter, or of a group of many.

    Args:
        group: Name of the group.
        parameters: One, or all of the group.
        positions: Of the draws, `(N, n)`.
        used: `(N,)` bool, the draws in which the group is used.
        reach: The part of the range below and above the identity that a `GroupBandit` draws from; None: another policy.
        calibrated: That which is calibrated; None: there is none.
    """
    first, whole = parameters[0], len(parameters) > 1
    if whole:  # in parts of the ranges
        low = 0.0 if first.one_sided else -1.0
        first = Parameter(group, low, 1.0, 0.0, "part of the range", one_sided=first.one_sided)
    scale = math.log if first.logarithmic else float
    below, above = (abs(scale(end) - scale(first.identity)) for end in (first.low, first.high))
    changes = np.abs(positions[used]) * np.where(positions[used] > 0, above, below)
    size = float(np.quantile(changes, 0.95)) if changes.size else 0.0
    drawn = [_value(first, float(end)) for end in np.quantile(positions, (0.05, 0.95))]
    return ParameterSummary(
        name=first.name,
        group=group,
        unit=first.unit,
        identity=first.identity,
        frequency=float(used.mean()),
        drawn=(drawn[0], drawn[1]) if reach is None else range_at(first, *reach),
        size=math.exp(size) if first.logarithmic else size,
        calibrated=None if calibrated is None else range_at(first, *calibrated),
        full=(first.low, first.high),
        logarithmic=first.logarithmic,
    )


def _value(parameter: Parameter, position: float) -> float:
    low, high = range_at(parameter, max(-position, 0.0), max(position, 0.0))
    return high if position > 0 else low
