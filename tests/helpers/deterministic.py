"""A policy whose draws are a function of the images, so that they do not depend on the device or on the split."""

from __future__ import annotations

import torch
from torch import Tensor

from hard_aug.policies import Gaussian


class FromImages(Gaussian):
    """`Gaussian` with noise that is a function of each image."""

    def sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        directions = torch.randn(images.shape[1:].numel(), self.size, generator=torch.Generator().manual_seed(3))
        noise = torch.sin(images.flatten(1) @ directions.to(images))
        return self.mean + noise @ self.scale().T
