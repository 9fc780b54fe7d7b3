"""Fusion of the stages of a composition: consecutive stages that one gather and one matrix per pixel can apply."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from hard_aug.ops import warp_color
from hard_aug.ops.compose import Plan, compose
from hard_aug.ops.compose.reference import matrix_product
from hard_aug.ops.elementwise import clamp_with_gradient
from hard_aug.ops.warp_color import PaddingMode
from hard_aug.transforms.affine import Affine
from hard_aug.transforms.base import ColorTransform, DisplacementTransform, SpatialTransform, Transform
from hard_aug.transforms.color import Color
from hard_aug.transforms.context import Context
from hard_aug.transforms.perspective import Perspective
from hard_aug.utils.settings_repr import SettingsRepr

#: Classes whose matrices `ops.compose` computes. Subclasses may define other matrices, so the exact type is compared.
PLANNED = (Affine, Perspective, Color)
#: Order in which stages can be fused.
FUSION_ORDER = (SpatialTransform, DisplacementTransform, ColorTransform)


class FusedStage(SettingsRepr):
    """Consecutive stages of a composition that are applied together, or a single stage that can't be fused.

    Args:
        stages: maps, then at most one displacement, then colours, where each kind may be missing; or one stage of
            another kind.
        columns: the first column of `u` of each stage.

    Attributes:
        plan: plan by which `ops.compose` computes all matrices at once; None if the stages compute their own, or have
            none.

    Raises:
        ValueError: spatial stages with different padding modes.
    """

    def __init__(self, stages: list[Transform], columns: list[int]) -> None:
        self.stages = stages
        self.columns = [slice(first, first + stage.size) for stage, first in zip(stages, columns, strict=True)]
        spatial = [stage for stage in stages if isinstance(stage, SpatialTransform | DisplacementTransform)]
        modes = {getattr(stage, "padding_mode", "zeros") for stage in spatial}
        if len(modes) > 1:
            raise ValueError(
                f"neighbouring spatial stages have different padding modes, {sorted(modes)}; give them the same"
            )
        self._padding_mode: PaddingMode = modes.pop() if modes else "zeros"  # type: ignore[assignment]  # one of them
        self._projective = any(isinstance(stage, SpatialTransform) and stage.projective for stage in stages)
        self.plan = _make_plan(stages, columns)

    def apply(self, images: Tensor, u: Tensor, context: Context, *, clamp: bool = False) -> Tensor:
        """Transform `images`, `(B, C, H, W)`, by the columns of `u`, `(B, P)`, that belong to these stages."""
        if _fusion_index(self.stages[0]) is None:
            out = self.stages[0].apply(images, u[:, self.columns[0]], context)
            return clamp_with_gradient(out) if clamp else out
        channels, height, width = images.shape[1:]
        inverse_map, color_matrix = self.matrices(u, height, width, channels)
        displacement: Tensor | None = None
        for stage, columns in zip(self.stages, self.columns, strict=True):
            if isinstance(stage, DisplacementTransform):
                displacement = stage.displacement(u[:, columns], height, width)
        return warp_color(
            images,
            inverse_map=inverse_map,
            displacement=displacement,
            color_matrix=color_matrix,
            padding_mode=self._padding_mode,
            projective=self._projective,
            clamp=clamp,
        )

    def matrices(self, u: Tensor, height: int, width: int, channels: int) -> tuple[Tensor | None, Tensor | None]:
        """Compute the inverse map `(B, 3, 3)` and the colour matrix `(B, C, C + 1)`, None if no stage has one."""
        if self.plan is not None:
            return compose(u, self.plan, height=height, width=width, channels=channels)
        inverse_map: Tensor | None = None
        color_matrix: Tensor | None = None
        for stage, columns in zip(self.stages, self.columns, strict=True):
            if isinstance(stage, SpatialTransform):
                matrix = stage.inverse_map(u[:, columns], height, width)
                inverse_map = matrix if inverse_map is None else matrix_product(inverse_map, matrix)
            elif isinstance(stage, ColorTransform):
                matrix = stage.color_matrix(u[:, columns], channels)
                color_matrix = matrix if color_matrix is None else _chain_colors(first=color_matrix, second=matrix)
        return inverse_map, color_matrix


def fuse(stages: tuple[Transform, ...]) -> list[FusedStage]:
    """Group the stages into as few fused stages as their order allows.

    Raises:
        ValueError: spatial stages of one group with different padding modes.
    """
    columns = [0, *accumulate(stage.size for stage in stages)][:-1]
    groups: list[list[int]] = []
    previous: int | None = None
    displacement = FUSION_ORDER.index(DisplacementTransform)
    for index, stage in enumerate(stages):
        current = _fusion_index(stage)
        in_order = previous is not None and current is not None and previous <= current
        if in_order and not previous == current == displacement:
            groups[-1].append(index)
        else:
            groups.append([index])
        previous = current
    return [FusedStage([stages[i] for i in group], [columns[i] for i in group]) for group in groups]


def _fusion_index(stage: Transform) -> int | None:
    """Return the position of a stage's kind in `FUSION_ORDER`; None if it can't be fused."""
    for index, kind in enumerate(FUSION_ORDER):
        if isinstance(stage, kind):
            return index
    return None


def _make_plan(stages: list[Transform], columns: list[int]) -> Plan | None:
    """Return the plan of all maps and colours together; None if a stage computes its own, or there are none."""
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
