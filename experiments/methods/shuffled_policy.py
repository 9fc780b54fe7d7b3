"""Policies that serve as controls in ablations."""

from __future__ import annotations

import torch
from torch import Tensor

from hard_aug.policies import Conditional
from hard_aug.utils.rng import derangement


class Shuffled(Conditional):
    """`Conditional` with shuffled inputs: each image's parameters are predicted from another image of the batch.

    The difference to `Conditional` shows how much the policy gains from looking at the image that it augments.
    """

    def sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Policy.sample`."""
        return super().sample(images[derangement(len(images), generator)], generator)
