"""Teachers and transforms of which it is known how far they go together, and augmenters that calibrate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.calibration.first_calls import IMAGES
from hard_aug.policies import GroupBandit
from hard_aug.schedules import Alternating
from hard_aug.transforms import Affine, Compose, Context, Filter, Parameter, Transform

#: Four such batches are what an augmenter calibrates on.
BATCH = IMAGES // 4


class Levels(nn.Module):
    """Predicts between which thresholds the mean intensity lies, and is always sure; without a gradient."""

    def __init__(self, *thresholds: float) -> None:
        super().__init__()
        self.register_buffer("thresholds", torch.tensor(thresholds))

    def forward(self, images: Tensor) -> Tensor:
        above = (images.mean((1, 2, 3))[:, None] > self.thresholds).sum(1)
        return 100 * nn.functional.one_hot(above, len(self.thresholds) + 1).to(images.dtype) - 50


class Offsets(Transform):
    """Adds the sum of its parameters, each in (-0.5, 0.5) or, one-sided, in (0, 0.5), to the intensity."""

    def __init__(self, *, one_sided: bool = False, **groups: int) -> None:
        self.one_sided, self.groups = one_sided, groups
        self.spec = tuple(
            Parameter(f"{name}_{i}", 0.0 if one_sided else -0.5, 0.5, 0.0, "intensity", one_sided=one_sided, group=name)
            for name, count in groups.items()
            for i in range(count)
        )

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        return images + sum(self.decode(u).values())[:, None, None, None]  # type: ignore[index]  # a tensor


class ByLabel(Offsets):
    """Offsets whose sign is the label's."""

    @property
    def requires_labels(self) -> bool:
        return True

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        assert context.labels is not None
        sign = 2 * context.labels[:, None, None, None].to(images.dtype) - 1
        return images + sign * (super().apply(images, u, context) - images)


def grey(count: int = 256, level: float = 0.5) -> Tensor:
    return torch.full((count, 1, 2, 2), level)


def trained_network() -> nn.Sequential:
    """A network in training mode whose forward would write statistics and draw random numbers there."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(256, 5),
    )
    network(torch.rand(64, 1, 8, 8))
    with torch.no_grad():
        network[-1].weight.mul_(8)  # type: ignore[operator]  # a tensor
    return network


def transform() -> Compose:
    """Four parameters in three groups, one of them one-sided, with noise."""
    return Compose(Affine(scale=None, shear=None), Filter(gamma=None, blur=None, sharpness=None))


def student() -> nn.Sequential:
    """Near the teacher, so that it disagrees more on hard images than on clean ones."""
    network, generator = trained_network(), torch.Generator().manual_seed(2)
    with torch.no_grad():
        network[-1].weight.add_(0.1 * torch.randn(5, 256, generator=generator))  # type: ignore[operator]  # a tensor
    return network


def made(teacher: nn.Module | None = None, **settings: Any) -> HardAugmenter:
    """Return an augmenter that calibrates `transform()`, and draws from a `GroupBandit`."""
    given = {"transform": transform(), "calibration": True, "schedule": Alternating(), **settings}
    if "policy" not in given and given["transform"] is not None:
        given["policy"] = GroupBandit(given["transform"].spec)
    return HardAugmenter(teacher=trained_network() if teacher is None else teacher, student=student(), **given)


def batches(count: int = 6, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.rand(count, BATCH, 1, 8, 8, generator=generator))


def equal(a: Any, b: Any) -> bool:
    """Return whether two states are equal to the bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)
