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

from hard_aug.transforms.base import Context, Parameter, Transform
from hard_aug.transforms.runs import runs_of


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
        self.runs = runs_of(stages)
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

    @property
    def wants_labels(self) -> bool:
        return any(stage.wants_labels for stage in self.stages)

    def check_channels(self, channels: int) -> None:
        for stage in self.stages:
            stage.check_channels(channels)

    def faults(self) -> list[str]:
        return [fault for stage in self.stages for fault in stage.faults()]

    def reference(self, logits: Tensor, u: Tensor, context: Context) -> Tensor:
        for stage, part in zip(self.stages, torch.split(u, self._sizes, dim=1), strict=True):
            logits = stage.reference(logits, part, context)
        return logits

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        for run in self.runs:
            images = run.apply(images, u, context)
        return images

    def apply_clamped(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        *first, last = self.runs
        for run in first:
            images = run.apply(images, u, context)
        return last.apply(images, u, context, clamp=not self.bounded)


def _free(name: str, taken: set[str]) -> str:
    """The name, with the first number behind it that makes it a new one where it is taken."""
    return name if name not in taken else next(f"{name}_{i}" for i in count(2) if f"{name}_{i}" not in taken)


def _flat(stages: tuple[Transform, ...]) -> tuple[Transform, ...]:
    """The stages of compositions in place of these, so that runs reach across them."""
    flat: list[Transform] = []
    for stage in stages:
        flat.extend(_flat(stage.stages) if type(stage) is Compose else (stage,))
    return tuple(flat)
