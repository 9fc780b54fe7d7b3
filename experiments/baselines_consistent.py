"""Consistent views and aggressive mixup (Beyer et al., "A good teacher is patient and consistent", arXiv:2106.05237).

Teacher and student see the very same mixed view, and nothing but such views. Their third ingredient, patience, is the
number of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.baselines import DrawnViews


class ConsistentMixup(DrawnViews):
    """`lambda x + (1 - lambda) x'`, `lambda ~ U[0, 1]` for each image by itself; both views are of this kind.

    Args:
        teacher, student: the networks.
        temperature: of the distillation.
        crop: the least share of the image's area that a random crop, resized to the image's size, keeps, in (0, 1]; as
            in Inception the share is uniform and the ratio of the sides is 3/4 to 4/3. None: no crops.
        seed: of the draws.
    """

    mixes = True

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        *,
        temperature: float,
        crop: float | None = None,
        seed: int = 0,
    ) -> None:
        if crop is not None and not 0 < crop <= 1:
            raise ValueError(f"crop={crop}: wanted a share of the area in (0, 1], or null for no crops")
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        self.crop = crop

    def first(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.views(images, labels)

    def draw(self, images: Tensor) -> Tensor:
        if self.crop is not None:
            crop = v2.RandomResizedCrop(tuple(images.shape[-2:]), scale=(self.crop, 1.0))
            images = torch.stack([crop(image) for image in images])
        partners = images[torch.randperm(len(images)).to(images.device)]
        return torch.lerp(partners, images, torch.rand(len(images), 1, 1, 1).to(images))
