"""RandAugment, TrivialAugment and AugMix as torchvision has them: on bytes, with draws of their own for each image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.baselines import DrawnViews


class _EachImage(DrawnViews):
    """Views by a transform of torchvision that changes one image of bytes; it always runs on the CPU."""

    transform: v2.Transform

    def draw(self, images: Tensor) -> Tensor:
        as_bytes = (255 * images.cpu()).round().to(torch.uint8)
        views = torch.stack([self.transform(image) for image in as_bytes])
        return views.to(images) / 255  # what was bytes once comes back as it was


class RandAugmented(_EachImage):
    """RandAugment (arXiv:1909.13719): `operations` of torchvision's list in turn, all of one magnitude.

    Args:
        teacher, student: the networks.
        temperature: of the distillation.
        operations: at least 1.
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
        if not (isinstance(operations, int) and operations >= 1):
            raise ValueError(f"operations={operations}: wanted a whole number of at least 1")
        if not (isinstance(magnitude, int) and 0 <= magnitude <= 30):
            raise ValueError(f"magnitude={magnitude}: wanted a whole number from 0 to 30")
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        self.transform = v2.RandAugment(num_ops=operations, magnitude=magnitude)


class TrivialAugmented(_EachImage):
    """TrivialAugmentWide (arXiv:2103.10158): one operation of a uniform magnitude; it has nothing to tune.

    Its shifts are of up to 32 pixels whatever the size of the images.

    Args:
        teacher, student: the networks.
        temperature: of the distillation.
        seed: of the draws.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, *, temperature: float, seed: int = 0) -> None:
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        self.transform = v2.TrivialAugmentWide()


class AugMixed(_EachImage):
    """AugMix (arXiv:1912.02781): the image mixed with chains of operations; one view, without the consistency loss.

    Distillation on the clean and the mixed image asks for consistency already. By default the operations are the
    paper's, without brightness, contrast, colour and sharpness, which its corrupted test sets have too.

    Args:
        teacher, student: the networks.
        temperature: of the distillation.
        severity: 1 to 10.
        chains: at least 1.
        all_ops: those four operations as well, torchvision's default.
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
            raise ValueError(f"severity={severity}: wanted a whole number from 1 to 10")
        if not (isinstance(chains, int) and chains >= 1):
            raise ValueError(f"chains={chains}: wanted a whole number of at least 1")
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        self.transform = v2.AugMix(severity=severity, mixture_width=chains, all_ops=all_ops)
