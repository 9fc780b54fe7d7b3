"""Random crops and flips of images in memory: how training on CIFAR sees them by custom (He et al., arXiv:1512.03385).

Every way of teaching, the teacher's own training too, then draws its batches so; what it adds comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.parts import Part


@dataclass(frozen=True)
class Cropped(Part):
    """A part of which training sees the images padded with zeros, cropped to their size and mirrored at random.

    Draws depend on the seed, the number of the batch and the place in it alone, so a resumed run sees the same.
    Outside the batches of a training the images are as they are.

    Attributes:
        padding: pixels at each side; the shift is uniform over `2 padding + 1` places in each direction.
        flip: mirror each image with probability 1/2.
        draw: the seed and the number of the batch; None: as they are.

    Raises:
        ValueError: a padding that is negative or larger than the images.
    """

    padding: int = 0
    flip: bool = False
    draw: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        most = min(self.shape[1:])
        if not 0 <= self.padding <= most:
            raise ValueError(f"data.crop_padding={self.padding}: wanted pixels, 0 (no crops) to {most}")

    def to(self, device: torch.device) -> Cropped:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def view(self, seed: int, number: int) -> Cropped:
        return replace(self, draw=(seed, number))

    def __getitem__(self, index: Tensor | slice) -> Part:
        images, labels = self.images[index], self.labels[index]
        if self.draw is None:
            return replace(self, images=images, labels=labels)
        seed, number = self.draw
        generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
        return Part(cropped(images, self.padding, self.flip, generator), labels)

    def in_memory(self) -> Part:
        return Part(self.images, self.labels)


def cropped(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Each image `(N, C, H, W)` shifted by up to `padding` pixels, zeros coming in, and mirrored or not."""
    count, _, height, width = images.shape
    top, left = torch.randint(2 * padding + 1, (2, count, 1), generator=generator).to(images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator).to(images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (padding,) * 4)
    which = torch.arange(count, device=images.device)[:, None, None]
    # Indexing puts the channels last, as there are indices on both sides of them.
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
