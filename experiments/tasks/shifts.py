"""Images shifted by whole pixels with zero fill: test sets of the shift task, and training views of its teacher.

The rule is that of MNIST-C's `translate` (Mu and Gilmer, arXiv:1906.02337): a shift of exactly `distance` pixels along
both axes with random signs. Here every image appears with all four sign combinations instead of a random one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hard_aug.data import ImageSet


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Shift images `(B, C, H, W)` by `offsets`, `(B, 2)` whole pixels to the right and down, and fill with zero."""
    height, width = images.shape[-2:]
    margin = int(offsets.abs().max()) if len(images) else 0
    padded = F.pad(images, (margin,) * 4)
    columns = torch.arange(width, device=images.device) + margin - offsets[:, :1]
    rows = torch.arange(height, device=images.device) + margin - offsets[:, 1:]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def random_shift(images: Tensor, distance: int, generator: torch.Generator) -> Tensor:
    """Shift each image by its own whole number of pixels, uniform in `[-distance, distance]` along each axis."""
    offsets = torch.randint(-distance, distance + 1, (len(images), 2), generator=generator)
    return shift(images, offsets.to(images.device))


def shifted_test_sets(test: ImageSet, distance: int) -> dict[str, ImageSet]:
    """Return the test sets `clean`, `shifted` (all four diagonal shifts) and `uniform` (one random shift an image).

    `distance`, in pixels, is that of `shifted` along both axes, and the largest one of `uniform`.
    """
    signs = torch.tensor([(-1, -1), (-1, 1), (1, -1), (1, 1)], device=test.images.device) * distance
    diagonal = [shift(test.images, sign.expand(len(test), 2)) for sign in signs]
    uniform = random_shift(test.images, distance, torch.Generator().manual_seed(0))
    return {
        "clean": test,
        "shifted": ImageSet(torch.cat(diagonal), test.labels.repeat(4)),
        "uniform": ImageSet(uniform, test.labels),
    }
