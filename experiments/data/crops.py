"""Random crops and flips of images in memory, as is usual for training on CIFAR (He et al., arXiv:1512.03385).

Every training method, and the training of the teacher, then draws its batches this way before its own augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hard_aug.data.image_set import ImageSet


@dataclass(frozen=True, eq=False, repr=False)
class Cropped(ImageSet):
    """An image set that training sees padded with zeros, cropped to the original size and mirrored at random.

    Crops depend only on the seed, the number of the batch and the position in it, so a resumed run sees the same.
    Outside the batches of a training run the images are unchanged.

    Attributes:
        images: `(N, C, H, W)` float32 in [0, 1].
        labels: `(N,)` int64.
        padding: pixels on each side; the shift is uniform over `2 padding + 1` positions in each direction.
        flip: mirror each image with probability 1/2.
        crop_seed: the seed and the number of the batch; None: no crops.

    Raises:
        ValueError: a padding that is negative or larger than the images.
    """

    padding: int = 0
    flip: bool = False
    crop_seed: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        largest = min(self.shape[1:])
        if not 0 <= self.padding <= largest:
            raise ValueError(f"data.crop_padding={self.padding}: expected pixels, 0 (no crops) to {largest}")

    def to(self, device: torch.device) -> Cropped:
        """See `ImageSet.to`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def view(self, seed: int, number: int) -> Cropped:
        """See `ImageSet.view`."""
        return replace(self, crop_seed=(seed, number))

    def select(self, rows: Tensor | slice) -> ImageSet:
        """See `ImageSet.select`."""
        images, labels = self.images[rows], self.labels[rows]
        if self.crop_seed is None:
            return replace(self, images=images, labels=labels)
        seed, number = self.crop_seed
        generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
        return ImageSet(random_crops(images, self.padding, self.flip, generator), labels)

    def materialize(self) -> ImageSet:
        """See `ImageSet.materialize`; the result has no random crops."""
        return ImageSet(self.images, self.labels)


def random_crops(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift each image `(N, C, H, W)` by up to `padding` pixels, filling with zeros, and mirror it with `flip`."""
    count, _, height, width = images.shape
    top, left = torch.randint(2 * padding + 1, (2, count, 1), generator=generator).to(images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator).to(images.device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (padding,) * 4)
    which = torch.arange(count, device=images.device)[:, None, None]
    # Advanced indices on both sides of the channels move them to the end.
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
