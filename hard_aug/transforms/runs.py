"""Runs: stages of a composition that one gather and one matrix per pixel stand for, or one stage of another kind."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from hard_aug.ops import warp_color
from hard_aug.ops.compose import Plan, compose
from hard_aug.ops.compose.reference import matrix_product
from hard_aug.ops.warp_color import PaddingMode
from hard_aug.ops.warp_color.reference import clamp_with_gradient
from hard_aug.transforms.base import (
    ColorTransform,
    Context,
    DisplacementTransform,
    SpatialTransform,
    Transform,
)
from hard_aug.transforms.color import Color
from hard_aug.transforms.perspective import Perspective
from hard_aug.transforms.spatial import Affine

#: Those whose matrices `ops.compose` makes. Classes derived from them may have matrices of their own.
PLANNED = (Affine, Perspective, Color)


class Run:
    """Some stages, one after the other.

    Args:
        stages: maps, then one displacement, then colours, each part perhaps missing; or one stage of another kind.
        columns: the first column of `u` of each.

    Attributes:
        plan: by which `ops.compose` makes all matrices at once; None: they are made one by one, or there are none.

    Raises:
        ValueError: spatial stages with different padding.
    """

    def __init__(self, stages: list[Transform], columns: list[int]) -> None:
        self.stages = stages
        self._columns = [slice(first, first + stage.size) for stage, first in zip(stages, columns, strict=True)]
        spatial = [stage for stage in stages if isinstance(stage, SpatialTransform | DisplacementTransform)]
        modes = {getattr(stage, "padding_mode", "zeros") for stage in spatial}
        if len(modes) > 1:
            raise ValueError(f"neighbouring spatial stages have different padding, {sorted(modes)}; give them one")
        self._padding_mode: PaddingMode = modes.pop() if modes else "zeros"  # type: ignore[assignment]  # one of them
        self._projective = any(isinstance(stage, SpatialTransform) and stage.projective for stage in stages)
        self.plan = _plan(stages, columns)

    def apply(self, images: Tensor, u: Tensor, context: Context, *, clamp: bool = False) -> Tensor:
        """`images`, `(B, C, H, W)`, transformed by this run's columns of `u`, `(B, P)`."""
        if _place(self.stages[0]) is None:
            out = self.stages[0].apply(images, u[:, self._columns[0]], context)
            return clamp_with_gradient(out) if clamp else out
        height, width = images.shape[-2:]
        channels = images.shape[1]
        inverse_map, color = self.matrices(u, height, width, channels)
        displacement: Tensor | None = None
        for stage, columns in zip(self.stages, self._columns, strict=True):
            if isinstance(stage, DisplacementTransform):
                displacement = stage.displacement(u[:, columns], height, width)
        return warp_color(
            images,
            inverse_map=inverse_map,
            displacement=displacement,
            color_matrix=color,
            padding_mode=self._padding_mode,
            projective=self._projective,
            clamp=clamp,
        )

    def matrices(self, u: Tensor, height: int, width: int, channels: int) -> tuple[Tensor | None, Tensor | None]:
        """The inverse map `(B, 3, 3)` and the colour matrix `(B, C, C + 1)`, None where the stages have none."""
        if self.plan is not None:
            return compose(u, self.plan, height=height, width=width, channels=channels)
        inverse_map: Tensor | None = None
        color: Tensor | None = None
        for stage, columns in zip(self.stages, self._columns, strict=True):
            if isinstance(stage, SpatialTransform):
                matrix = stage.inverse_map(u[:, columns], height, width)
                inverse_map = matrix if inverse_map is None else matrix_product(inverse_map, matrix)
            elif isinstance(stage, ColorTransform):
                matrix = stage.color_matrix(u[:, columns], channels)
                color = matrix if color is None else _chain_colors(first=color, second=matrix)
        return inverse_map, color


def runs_of(stages: tuple[Transform, ...]) -> list[Run]:
    """The stages in as few runs as their order allows.

    Raises:
        ValueError: spatial stages of one run with different padding.
    """
    columns = [0, *accumulate(stage.size for stage in stages)][:-1]
    groups: list[list[int]] = []
    previous: Transform | None = None
    for index, stage in enumerate(stages):
        before, now = _place(previous), _place(stage)
        if before is not None and now is not None and before <= now and (before, now) != (1, 1):
            groups[-1].append(index)
        else:
            groups.append([index])
        previous = stage
    return [Run([stages[i] for i in group], [columns[i] for i in group]) for group in groups]


def _place(stage: Transform | None) -> int | None:
    """Where in a run a stage stands: maps, then one displacement, then colours; None: in none."""
    for place, kind in enumerate((SpatialTransform, DisplacementTransform, ColorTransform)):
        if isinstance(stage, kind):
            return place
    return None


def _plan(stages: list[Transform], columns: list[int]) -> Plan | None:
    """That of all maps and colours together; None where there is none, and they are made one by one."""
    whole: Plan | None = None
    for stage, first in zip(stages, columns, strict=True):
        if isinstance(stage, DisplacementTransform):
            continue
        if type(stage) not in PLANNED:
            return None
        plan: Plan = stage.plan.shifted(first)  # type: ignore[attr-defined]  # all of them have one
        joined = plan if whole is None else whole.then(plan)
        if joined is None:
            return None
        whole = joined
    return whole


def _chain_colors(*, first: Tensor, second: Tensor) -> Tensor:
    channels = first.shape[1]
    linear = second[:, :, :channels]
    product = matrix_product(linear, first)
    return torch.cat((product[:, :, :channels], product[:, :, channels:] + second[:, :, channels:]), dim=2)
