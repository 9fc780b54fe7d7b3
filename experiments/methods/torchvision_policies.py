"""RandAugment, TrivialAugment, AugMix, or any other torchvision transform of one image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.methods.drawn_views import DrawnViews


class TorchvisionViews(DrawnViews):
    """Views by a torchvision transform of single uint8 images, with separate draws for each; it runs on the CPU.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        transform: of a `(C, H, W)` image; AugMix without its consistency loss, since distillation on the clean and the
            mixed image already enforces consistency.
        temperature: of the distillation.
        seed: of the draws.

    Raises:
        ValueError: a magnitude of RandAugment outside its range, which torchvision does not check.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, *, transform: v2.Transform, temperature: float, seed: int = 0
    ) -> None:
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        if isinstance(transform, v2.RandAugment) and not 0 <= transform.magnitude < transform.num_magnitude_bins:
            highest = transform.num_magnitude_bins - 1
            raise ValueError(f"magnitude={transform.magnitude}: expected an integer from 0 to {highest}")
        self.transform = transform

    def draw(self, images: Tensor) -> Tensor:
        """See `DrawnViews.draw`."""
        as_bytes = (255 * images.cpu()).round().to(torch.uint8)
        # An 8-bit image that no operation changes is reproduced exactly.
        return torch.stack([self.transform(image) for image in as_bytes]).to(images) / 255
