"""Policies that exist to be compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from hard_aug.draws import partners
from hard_aug.policies import Conditional


class Shuffled(Conditional):
    """`Conditional`, shown another image of the batch than the one it draws for: what is left of what it learns?"""

    def propose(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return super().propose(images[partners(len(images), generator)], generator)
