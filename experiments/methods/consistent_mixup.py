"""Consistent views and aggressive mixup (Beyer et al., "A good teacher is patient and consistent", arXiv:2106.05237).

Teacher and student see exactly the same mixed views, and no clean images. The paper's third ingredient, patience, is
the number of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.methods.drawn_views import DrawnViews
from hard_aug.utils.checks import check_fraction


class ConsistentMixup(DrawnViews):
    """Mixup `lambda x + (1 - lambda) x'` for both views, with `lambda ~ U[0, 1]` drawn for each image.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        temperature: of the distillation.
        crop: smallest fraction of the image's area that a random crop, resized to the image's size, keeps, in (0, 1];
            as in Inception the fraction is uniform and the aspect ratio is 3/4 to 4/3. None: no crops.
        seed: of the draws.
    """

    mixes = True

    def __init__(
        self, teacher: nn.Module, student: nn.Module, *, temperature: float, crop: float | None = None, seed: int = 0
    ) -> None:
        if crop is not None:
            check_fraction(crop=crop)
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        self.crop = crop

    def first_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `TwoViewMethod.first_view`; a mixed view here too."""
        return self.second_view(images, labels)

    def draw(self, images: Tensor) -> Tensor:
        """See `DrawnViews.draw`."""
        if self.crop is not None:
            crop = v2.RandomResizedCrop(tuple(images.shape[-2:]), scale=(self.crop, 1.0))
            images = torch.stack([crop(image) for image in images])
        partners = images[torch.randperm(len(images)).to(images.device)]
        return torch.lerp(partners, images, torch.rand(len(images), 1, 1, 1).to(images))
