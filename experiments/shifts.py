"""Shifted images with zero fill: the test sets of the shift experiment, and what a teacher trains on.

The rule is that of MNIST-C's `translate` (Mu and Gilmer, arXiv:1906.02337): a shift of exactly `distance` pixels on
both axes, the signs free. Here every image is shown in all four corners instead of one drawn at random.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.data import Part


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Shift each image by whole pixels.

    Args:
        images: `(B, C, H, W)`.
        offsets: `(B, 2)` integers, pixels to the right and down.

    Returns:
        `(B, C, H, W)`, zeros where nothing came in.
    """
    height, width = images.shape[-2:]
    margin = int(offsets.abs().max()) if len(images) else 0
    padded = F.pad(images, (margin,) * 4)
    columns = torch.arange(width, device=images.device) + margin - offsets[:, :1]
    rows = torch.arange(height, device=images.device) + margin - offsets[:, 1:]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def random_shift(images: Tensor, distance: int, generator: torch.Generator) -> Tensor:
    """Shift each image by its own whole offset, uniform in `[-distance, distance]` on each axis."""
    offsets = torch.randint(-distance, distance + 1, (len(images), 2), generator=generator)
    return shift(images, offsets.to(images.device))


def sets_of(test: Part, distance: int, *, seed: int = 0) -> dict[str, Part]:
    """`centred`: as it is. `shifted`: all four corners at `distance` pixels. `uniform`: one random shift each."""
    signs = torch.tensor([(-1, -1), (-1, 1), (1, -1), (1, 1)], device=test.images.device) * distance
    cornered = [shift(test.images, sign.expand(len(test), 2)) for sign in signs]
    uniform = random_shift(test.images, distance, torch.Generator().manual_seed(seed))
    return {
        "centred": test,
        "shifted": Part(torch.cat(cornered), test.labels.repeat(4)),
        "uniform": Part(uniform, test.labels),
    }
