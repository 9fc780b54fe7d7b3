"""Views drawn at random from a transform's ranges: the control, and what a teacher learns an invariance from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hard_aug.transforms import Context, Transform


def uniform_parameters(rows: int, size: int, generator: torch.Generator, *, scale: float = 1.0) -> Tensor:
    """`u`, `(rows, size)`, that decodes to the uniform distribution on the middle `scale` of each range.

    Raises:
        ValueError: a scale outside (0, 1].
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale={scale}: wanted a share of the ranges in (0, 1]")
    u = torch.randn(rows, size, generator=generator)
    if scale < 1:
        u = math.sqrt(2) * torch.erfinv(scale * torch.erf(u / math.sqrt(2)))
    return u


@torch.no_grad()
def random_views(
    transform: Transform,
    images: Tensor,
    generator: torch.Generator,
    *,
    scale: float = 1.0,
    labels: Tensor | None = None,
) -> Tensor:
    """One view of each image, `(B, C, H, W)` in [0, 1], from the middle `scale` of the transform's ranges.

    Args:
        generator: on the CPU, so that all devices see the same views.
        labels: `(B,)`, for transforms that want them.
    """
    u = uniform_parameters(len(images), transform.size, generator, scale=scale).to(images.device)
    partner_images = noise = None
    if transform.wants_partner:
        partner_images = images[torch.randperm(len(images), generator=generator).to(images.device)]
    if transform.wants_noise:
        noise = torch.randn(images.shape, generator=generator).to(images)
    views = transform(images, u, Context(labels, partner_images=partner_images, noise=noise))
    return views if transform.bounded else views.clamp(0, 1)
