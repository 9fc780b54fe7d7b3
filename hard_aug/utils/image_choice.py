"""A random choice of the images that an evaluation uses."""

from __future__ import annotations

import torch
from torch import Tensor


def choose(images: Tensor, labels: Tensor | None, *, limit: int | None, seed: int) -> tuple[Tensor, Tensor | None]:
    """Return at most `limit` images with their labels, in their order; which ones depends on N and the seed only.

    Args:
        images: `(N, C, H, W)`.
        labels: `(N,)`.
        limit: Largest number of images; None: all.
        seed: Seed of the choice.
    """
    if limit is None or len(images) <= limit:
        return images, labels
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed), device="cpu")
    chosen = chosen[:limit].sort().values.to(images.device)
    return images[chosen], None if labels is None else labels[chosen]
