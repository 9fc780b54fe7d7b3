"""Mixup and CutMix by torchvision (one coefficient or box a batch), and CutMixPick, which keeps uncertain views."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.methods.drawn_views import DrawnViews
from hard_aug.evaluation.network_evaluations import FORWARD, TWO_VIEWS


class Mixed(DrawnViews):
    """Each image is mixed with its neighbour in the shuffled batch.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        transform: mixes a batch; `MixUp` (arXiv:1710.09412): `lambda x + (1 - lambda) x'`, `CutMix`
            (arXiv:1905.04899): a box of x' with area `1 - lambda`; `lambda ~ Beta(alpha, alpha)`, one for a batch.
        temperature: of the distillation.
        seed: of the draws.
    """

    mixes = True

    def __init__(
        self, teacher: nn.Module, student: nn.Module, *, transform: v2.Transform, temperature: float, seed: int = 0
    ) -> None:
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        self.transform = transform

    def draw(self, images: Tensor) -> Tensor:
        """See `DrawnViews.draw`."""
        # torchvision also requires labels to mix; here the teacher predicts on the mixed image itself.
        return self.transform(images, images.new_zeros(len(images), 1))[0]


class CutMixPick(Mixed):
    """Mixed views with the highest entropy of the teacher's prediction (Wang et al., NeurIPS 2022, arXiv:2012.02909).

    The B most uncertain images out of `candidates` mixed batches, 2 or more, form the second view. The teacher's
    forward passes on all candidates are included in the network evaluations.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        *,
        transform: v2.Transform,
        temperature: float,
        candidates: int = 2,
        seed: int = 0,
    ) -> None:
        if not (isinstance(candidates, int) and candidates >= 2):
            raise ValueError(f"candidates={candidates}: expected an integer >= 2; for one use method=cutmix")
        super().__init__(teacher, student, transform=transform, temperature=temperature, seed=seed)
        self.candidates = candidates
        self.network_evaluations = TWO_VIEWS + candidates * FORWARD

    def draw(self, images: Tensor) -> Tensor:
        """See `DrawnViews.draw`."""
        batches = [super(CutMixPick, self).draw(images) for _ in range(self.candidates)]
        logits = torch.cat([self.teacher(batch) for batch in batches])
        entropy = torch.special.entr(logits.softmax(1)).sum(1)
        return torch.cat(batches)[entropy.topk(len(images)).indices]
