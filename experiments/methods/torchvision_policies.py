"""RandAugment, TrivialAugment and AugMix by torchvision: on uint8 images, with separate draws for each image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.methods.drawn_views import DrawnViews
from hard_aug.utils.checks import check_integer


class _EachImage(DrawnViews):
    """Views by a torchvision transform of a single uint8 image; always runs on the CPU."""

    transform: v2.Transform

    def draw(self, images: Tensor) -> Tensor:
        """See `DrawnViews.draw`."""
        as_bytes = (255 * images.cpu()).round().to(torch.uint8)
        # An 8-bit image that no operation changes is reproduced exactly.
        return torch.stack([self.transform(image) for image in as_bytes]).to(images) / 255


class RandAugmented(_EachImage):
    """RandAugment (arXiv:1909.13719): several of torchvision's operations in sequence, all with one magnitude.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        temperature: of the distillation.
        operations: number of operations, >= 1.
        magnitude: 0 to 30.
        seed: of the draws.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        *,
        temperature: float,
        operations: int = 2,
        magnitude: int = 9,
        seed: int = 0,
    ) -> None:
        check_integer(operations=operations)
        if not (isinstance(magnitude, int) and 0 <= magnitude <= 30):
            raise ValueError(f"magnitude={magnitude}: expected an integer from 0 to 30")
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        self.transform = v2.RandAugment(num_ops=operations, magnitude=magnitude)


class TrivialAugmented(_EachImage):
    """TrivialAugmentWide (arXiv:2103.10158): one operation with uniform magnitude; it has no settings to tune.

    Its translations are of up to 32 pixels whatever the size of the images.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        temperature: of the distillation.
        seed: of the draws.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, *, temperature: float, seed: int = 0) -> None:
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        self.transform = v2.TrivialAugmentWide()


class AugMixed(_EachImage):
    """AugMix (arXiv:1912.02781): mix the image with chains of operations; one view, without the consistency loss.

    Distillation on the clean and the mixed image already enforces consistency. By default the operations are the
    paper's, without brightness, contrast, colour and sharpness, which also occur in its corrupted test sets.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        temperature: of the distillation.
        severity: 1 to 10.
        chains: number of chains, >= 1.
        all_ops: include these four operations, torchvision's default.
        seed: of the draws.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        *,
        temperature: float,
        severity: int = 3,
        chains: int = 3,
        all_ops: bool = False,
        seed: int = 0,
    ) -> None:
        if not (isinstance(severity, int) and 1 <= severity <= 10):
            raise ValueError(f"severity={severity}: expected an integer from 1 to 10")
        check_integer(chains=chains)
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        self.transform = v2.AugMix(severity=severity, mixture_width=chains, all_ops=all_ops)
