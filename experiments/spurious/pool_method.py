"""A training method of the spurious experiment only: clean images together with a pool of other images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from experiments.methods.base import TwoViewMethod
from experiments.training.loop import Batches
from hard_aug.data import ImageSet


class Pool(TwoViewMethod):
    """The second view is a batch of other images, in an order that is shuffled again for each pass through the pool.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        pool: images and labels.
        temperature: of the distillation.
        seed: of the order.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, pool: ImageSet, *, temperature: float, seed: int
    ) -> None:
        super().__init__(teacher, student, temperature=temperature)
        self.pool, self.seed = pool, seed
        self._batches: Batches | None = None
        self._state: dict[str, Any] | None = None

    def add(self, part: ImageSet) -> None:
        """Add images to the pool, and shuffle all of it again."""
        old = self.pool
        self.pool = ImageSet(torch.cat((old.images, part.images)), torch.cat((old.labels, part.labels)))
        self._batches = self._state = None

    def second_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `TwoViewMethod.second_view`."""
        if self._batches is None:
            self._batches = Batches(self.pool, min(len(images), len(self.pool)), self.seed)
            if self._state is not None:
                self._batches.load_state_dict(self._state)
        return self._batches.next().images

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {} if self._batches is None else self._batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self._state, self._batches = state or None, None
