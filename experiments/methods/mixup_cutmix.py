"""Mixup and CutMix by torchvision (one coefficient or box a batch), and CutMixPick, which keeps uncertain views."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.methods.drawn_views import DrawnViews
from hard_aug.evaluation.network_evaluations import FORWARD, TWO_VIEWS
from hard_aug.utils.checks import check_positive_number


class _Mixed(DrawnViews):
    """Mix each image with its neighbour in the shuffled batch."""

    mixes = True
    kind: type[v2.MixUp | v2.CutMix]

    def __init__(
        self, teacher: nn.Module, student: nn.Module, *, temperature: float, alpha: float = 1.0, seed: int = 0
    ) -> None:
        check_positive_number(alpha=alpha)
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        self._mix = self.kind(alpha=alpha)

    def draw(self, images: Tensor) -> Tensor:
        """See `DrawnViews.draw`."""
        # torchvision also requires labels to mix; here the teacher predicts on the mixed image itself.
        return self._mix(images, images.new_zeros(len(images), 1))[0]


class Mixup(_Mixed):
    """Mixup (arXiv:1710.09412): `lambda x + (1 - lambda) x'`, `lambda ~ Beta(alpha, alpha)`, one for a batch.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        temperature: of the distillation.
        alpha: > 0; 1: lambda is uniform.
        seed: of the draws.
    """

    kind = v2.MixUp


class CutMixed(_Mixed):
    """CutMix (arXiv:1905.04899): paste a box of another image with area `1 - lambda`, the same box for a whole batch.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        temperature: of the distillation.
        alpha: of lambda's Beta distribution, > 0.
        seed: of the draws.
    """

    kind = v2.CutMix


class CutMixPick(CutMixed):
    """CutMix that keeps the views with the highest entropy of the teacher's prediction (arXiv:2012.02909).

    The B images with the highest entropy out of `candidates` CutMix batches form the second view. The teacher's forward
    passes on all candidates are included in the network evaluations.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        temperature: of the distillation.
        candidates: number of batches to choose from, >= 2.
        alpha: of lambda's Beta distribution, > 0.
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
            raise ValueError(f"candidates={candidates}: expected an integer >= 2; for one use CutMixed")
        super().__init__(teacher, student, temperature=temperature, alpha=alpha, seed=seed)
        self.candidates = candidates
        self.network_evaluations = TWO_VIEWS + candidates * FORWARD

    def draw(self, images: Tensor) -> Tensor:
        """See `DrawnViews.draw`."""
        batches = [super(CutMixPick, self).draw(images) for _ in range(self.candidates)]
        entropy = torch.cat([_entropy(self.teacher(batch)) for batch in batches])
        return torch.cat(batches)[entropy.topk(len(images)).indices]


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy of the prediction, `(B,)`, in nats."""
    return torch.special.entr(logits.softmax(1)).sum(1)
