"""Mixup and CutMix by torchvision (one coefficient or box a batch), and CutMixPick: what the teacher doubts is kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.baselines import DrawnViews
from experiments.evaluations import FORWARD, TWO_VIEWS


class _Mixed(DrawnViews):
    """Each image with its neighbour in the batch, which is shuffled."""

    mixes = True
    kind: type[v2.MixUp | v2.CutMix]

    def __init__(
        self, teacher: nn.Module, student: nn.Module, *, temperature: float, alpha: float = 1.0, seed: int = 0
    ) -> None:
        if not (alpha > 0 and math.isfinite(alpha)):
            raise ValueError(f"alpha={alpha}: wanted a positive number, the parameter of the Beta distribution")
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        self._mix = self.kind(alpha=alpha)

    def draw(self, images: Tensor) -> Tensor:
        # torchvision wants labels to mix as well; here the teacher answers the mixed image itself.
        mixed: Tensor = self._mix(images, images.new_zeros(len(images), 1))[0]
        return mixed


class Mixup(_Mixed):
    """Mixup (arXiv:1710.09412): `lambda x + (1 - lambda) x'`, `lambda ~ Beta(alpha, alpha)`, one for a batch.

    Args:
        teacher, student: the networks.
        temperature: of the distillation.
        alpha: above 0; 1: lambda is uniform.
        seed: of the draws.
    """

    kind = v2.MixUp


class CutMixed(_Mixed):
    """CutMix (arXiv:1905.04899): a box of another image, of the share `1 - lambda`, the same box in all of a batch.

    Args:
        teacher, student: the networks.
        temperature: of the distillation.
        alpha: of lambda's Beta distribution, above 0.
        seed: of the draws.
    """

    kind = v2.CutMix


class CutMixPick(CutMixed):
    """CutMix, of whose views those with the highest entropy of the teacher's answer are kept (arXiv:2012.02909).

    Of `candidates` CutMix batches the B images on which the teacher is least sure make the second view. The teacher
    looks at all candidates, which is counted.

    Args:
        teacher, student: the networks.
        temperature: of the distillation.
        candidates: batches to choose from, at least 2.
        alpha: of lambda's Beta distribution, above 0.
        seed: of the draws.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        *,
        temperature: float,
        candidates: int = 2,
        alpha: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not (isinstance(candidates, int) and candidates >= 2):
            raise ValueError(f"candidates={candidates}: wanted a whole number of at least 2; for one use CutMixed")
        super().__init__(teacher, student, temperature=temperature, alpha=alpha, seed=seed)
        self.candidates = candidates
        self.network_evaluations = TWO_VIEWS + candidates * FORWARD

    def draw(self, images: Tensor) -> Tensor:
        batches = [super(CutMixPick, self).draw(images) for _ in range(self.candidates)]
        entropy = torch.cat([_entropy(self.teacher(batch)) for batch in batches])
        return torch.cat(batches)[entropy.topk(len(images)).indices]


def _entropy(logits: Tensor) -> Tensor:
    """`(B,)` in nats."""
    return torch.special.entr(logits.softmax(1)).sum(1)
