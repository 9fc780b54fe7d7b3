"""Compose: transforms in turn, each run of spatial stages followed by colour stages as one gather and one matrix.

A run is: maps (`Affine`, `Perspective`), then a displacement (`Elastic`), then colours; each part may be missing. What
does not fit in that order starts a new gather, so put `Elastic` after the maps. One-gather semantics are the
definition. They differ from applying the stages in turn by what resampling twice blurs, and by the fill: content that a
stage moves out of the frame and a later one moves back in is not lost.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from hard_aug.ops import warp_color
from hard_aug.transforms.base import (
    ColorTransform,
    Context,
    DisplacementTransform,
    Parameter,
    SpatialTransform,
    Transform,
)


class Compose(Transform):
    """Apply `stages` in order; `u` is the concatenation of theirs.

    Where two stages share the name of a parameter or a block, the later one's has a suffix: `rotation`, `rotation_2`.
    Colour before a spatial stage starts a new gather. Gradients: images yes, parameters yes, second order no.

    Raises:
        ValueError: no stage, or spatial stages of one run with different padding.
    """

    def __init__(self, *stages: Transform) -> None:
        if not stages:
            raise ValueError("Compose wants at least one transform, got none")
        for stage in stages:
            if not isinstance(stage, Transform):
                raise TypeError(f"Compose wants transforms, got {type(stage).__name__}")
        stages = _flat(stages)
        self.stages = stages
        self._sizes = [stage.size for stage in stages]
        self._runs = _runs(stages)
        spec: list[Parameter] = []
        for stage in stages:
            names, blocks = {p.name for p in spec}, {p.block for p in spec}
            spec += [replace(p, name=_free(p.name, names), block=_free(p.block, blocks)) for p in stage.spec]
        self.spec = tuple(spec)

    @property
    def bounded(self) -> bool:
        return all(stage.bounded for stage in self.stages)

    @property
    def wants_partner(self) -> bool:
        return any(stage.wants_partner for stage in self.stages)

    @property
    def wants_noise(self) -> bool:
        return any(stage.wants_noise for stage in self.stages)

    def check_channels(self, channels: int) -> None:
        for stage in self.stages:
            stage.check_channels(channels)

    def reference(self, logits: Tensor, u: Tensor, context: Context) -> Tensor:
        for stage, part in zip(self.stages, torch.split(u, self._sizes, dim=1), strict=True):
            logits = stage.reference(logits, part, context)
        return logits

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        parts = torch.split(u, self._sizes, dim=1)
        for run in self._runs:
            images = self._apply_run(images, parts, run, context)
        return images

    def _apply_run(self, images: Tensor, parts: tuple[Tensor, ...], run: list[int], context: Context) -> Tensor:
        height, width = images.shape[-2:]
        channels = images.shape[1]
        inverse_map: Tensor | None = None
        color: Tensor | None = None
        displacement: Tensor | None = None
        padding_mode, projective = "zeros", False
        for index in run:
            stage, part = self.stages[index], parts[index]
            if isinstance(stage, SpatialTransform):
                matrix = stage.inverse_map(part, height, width)
                inverse_map = matrix if inverse_map is None else inverse_map @ matrix
                padding_mode = getattr(stage, "padding_mode", "zeros")
                projective = projective or stage.projective
            elif isinstance(stage, DisplacementTransform):
                displacement = stage.displacement(part, height, width)
                padding_mode = getattr(stage, "padding_mode", "zeros")
            elif isinstance(stage, ColorTransform):
                matrix = stage.color_matrix(part, channels)
                color = matrix if color is None else _chain_colors(first=color, second=matrix)
            else:
                return stage.apply(images, part, context)
        return warp_color(
            images,
            inverse_map=inverse_map,
            displacement=displacement,
            color_matrix=color,
            padding_mode=padding_mode,  # type: ignore[arg-type]  # one of the modes, as the stages have checked
            projective=projective,
        )


def _free(name: str, taken: set[str]) -> str:
    """The name, with the first number behind it that makes it a new one where it is taken."""
    return name if name not in taken else next(f"{name}_{i}" for i in count(2) if f"{name}_{i}" not in taken)


def _flat(stages: tuple[Transform, ...]) -> tuple[Transform, ...]:
    """The stages of compositions in place of these, so that runs reach across them."""
    flat: list[Transform] = []
    for stage in stages:
        flat.extend(_flat(stage.stages) if type(stage) is Compose else (stage,))
    return tuple(flat)


def _chain_colors(*, first: Tensor, second: Tensor) -> Tensor:
    channels = first.shape[1]
    linear = second[:, :, :channels]
    return torch.cat(
        (linear @ first[:, :, :channels], linear @ first[:, :, channels:] + second[:, :, channels:]), dim=2
    )


def _place(stage: Transform | None) -> int | None:
    """Where in a run a stage stands: maps, then one displacement, then colours; None: in none."""
    for place, kind in enumerate((SpatialTransform, DisplacementTransform, ColorTransform)):
        if isinstance(stage, kind):
            return place
    return None


def _runs(stages: tuple[Transform, ...]) -> list[list[int]]:
    """Indices of the stages, grouped so that each group is one call of `warp_color` or one other stage."""
    runs: list[list[int]] = []
    previous: Transform | None = None
    for index, stage in enumerate(stages):
        before, now = _place(previous), _place(stage)
        joins = before is not None and now is not None and before <= now and (before, now) != (1, 1)
        if joins and now != 2:
            modes = {getattr(s, "padding_mode", "zeros") for s in (previous, stage)}
            if len(modes) > 1:
                raise ValueError(f"neighbouring spatial stages have different padding, {sorted(modes)}; give them one")
        if joins:
            runs[-1].append(index)
        else:
            runs.append([index])
        previous = stage
    return runs
