"""Compose: transforms in sequence, where spatial and colour stages are fused into one gather and one matrix per pixel.

A fused stage is: maps (`Affine`, `Perspective`), then a displacement (`Elastic`), then colours; each kind may be
missing. A stage that breaks this order starts a new gather, so put `Elastic` after the maps. The result is defined by
the single gather. It differs from applying the stages one by one in two ways: nothing is blurred by resampling twice,
and content that one stage moves out of the frame and a later one moves back in is not lost.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from hard_aug.transforms.base import Transform
from hard_aug.transforms.context import Context
from hard_aug.transforms.fusion import fuse
from hard_aug.transforms.spec import Parameter


class Compose(Transform):
    """Apply `stages` in order; `u` is the concatenation of theirs.

    If two stages share the name of a parameter, a block or a group, that of the later one gets a suffix: `rotation`,
    `rotation_2`. A colour stage before a spatial stage costs another gather. Gradients: images yes, parameters yes,
    second order no.

    Args:
        stages: the transforms; nested `Compose` are flattened, so that fusion also joins their stages.

    Attributes:
        fused_stages: the stages in groups that are applied together.

    Raises:
        TypeError: a stage that is not a transform.
        ValueError: no stage, or neighbouring spatial stages with different padding modes.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Affine, Color, Compose
        >>> transform = Compose(Affine(), Color(saturation=None, hue=None))
        >>> transform.size, len(transform.fused_stages)
        (8, 1)
        >>> transform(torch.rand(2, 1, 28, 28), torch.randn(2, 8)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(self, *stages: Transform) -> None:
        if not stages:
            raise ValueError("Compose: expected at least one transform, got none")
        for stage in stages:
            if not isinstance(stage, Transform):
                found = f"the class {stage.__name__}" if isinstance(stage, type) else type(stage).__name__
                raise TypeError(f"Compose: expected transforms, as in Compose(Affine(), Color()), got {found}")
        stages = _flatten(stages)
        self.stages = stages
        self._sizes = [stage.size for stage in stages]
        self.fused_stages = fuse(stages)
        spec: list[Parameter] = []
        for stage in stages:
            taken = {field: {getattr(p, field) for p in spec} for field in ("name", "block", "group")}
            for p in stage.spec:
                name, block, group = (_unique(getattr(p, field), used) for field, used in taken.items())
                spec.append(replace(p, name=name, block=block, group=group))
        self.spec = tuple(spec)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.stages))})"

    @property
    def bounded(self) -> bool:
        """See `Transform.bounded`."""
        return all(stage.bounded for stage in self.stages)

    @property
    def requires_partner(self) -> bool:
        """See `Transform.requires_partner`."""
        return any(stage.requires_partner for stage in self.stages)

    @property
    def requires_noise(self) -> bool:
        """See `Transform.requires_noise`."""
        return any(stage.requires_noise for stage in self.stages)

    @property
    def requires_labels(self) -> bool:
        """See `Transform.requires_labels`."""
        return any(stage.requires_labels for stage in self.stages)

    def decode(self, u: Tensor) -> dict[str, Tensor]:
        """See `Transform.decode`; a stage may decode in its own way."""
        self._check_parameters(u)
        parts = zip(self.stages, torch.split(u, self._sizes, dim=1), strict=True)
        values = (value for stage, columns in parts for value in stage.decode(columns).values())
        return dict(zip((parameter.name for parameter in self.spec), values, strict=True))

    def check_channels(self, channels: int) -> None:
        """See `Transform.check_channels`."""
        for stage in self.stages:
            stage.check_channels(channels)

    def pop_nonfinite_reports(self) -> list[str]:
        """See `Transform.pop_nonfinite_reports`."""
        return [report for stage in self.stages for report in stage.pop_nonfinite_reports()]

    def reference(self, logits: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.reference`."""
        for stage, columns in zip(self.stages, torch.split(u, self._sizes, dim=1), strict=True):
            logits = stage.reference(logits, columns, context)
        return logits

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.apply`."""
        for stage in self.fused_stages:
            images = stage.apply(images, u, context)
        return images

    def apply_clamped(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.apply_clamped`."""
        *first, last = self.fused_stages
        for stage in first:
            images = stage.apply(images, u, context)
        return last.apply(images, u, context, clamp=not self.bounded)


def _unique(name: str, taken: set[str]) -> str:
    """Append the first number from 2 that makes `name` unique, if it is taken."""
    return name if name not in taken else next(f"{name}_{i}" for i in count(2) if f"{name}_{i}" not in taken)


def _flatten(stages: tuple[Transform, ...]) -> tuple[Transform, ...]:
    """Replace nested compositions by their stages."""
    flat: list[Transform] = []
    for stage in stages:
        flat.extend(
            _flatten(stage.stages) if isinstance(stage, Compose) and type(stage).apply is Compose.apply else (stage,)
        )
    return tuple(flat)
