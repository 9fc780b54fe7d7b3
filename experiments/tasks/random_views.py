"""Views drawn uniformly from a transform's ranges: random augmentation, and training views of invariant teachers."""

from __future__ import annotations

import torch
from torch import Tensor

from hard_aug.policies import Policy, Uniform
from hard_aug.transforms import Transform, make_context


@torch.no_grad()
def random_views(
    transform: Transform,
    images: Tensor,
    generator: torch.Generator,
    *,
    scale: float = 1.0,
    policy: Policy | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Return one random view of each image, `(B, C, H, W)` in [0, 1].

    The parameters are drawn by `generator` on the CPU, so that all devices get the same views, from the centre of each
    range of the transform: a fraction `scale` of it, in (0, 1]; or by a `policy`, on the CPU. `labels`, `(B,)`, are for
    transforms that require them.

    Raises:
        ValueError: a scale outside (0, 1].
    """
    policy = Uniform(transform.spec, scale=scale) if policy is None else policy
    u = policy.sample(images, generator).to(images.device)
    views = transform(images, u, make_context(transform, images, generator=generator, labels=labels))
    return views if transform.bounded else views.clamp(0, 1)
