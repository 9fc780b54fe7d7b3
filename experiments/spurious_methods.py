"""A way of teaching that only the spurious experiment has: a pool of other images.

It does the work of `experiments.methods`: the teacher on a clean and another view, one student forward on both, and the
mean of the two distillation losses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from experiments.data import Part
from experiments.methods import SecondView
from experiments.training import Batches


class Pool(SecondView):
    """A batch of generated images beside each clean one, shuffled anew in each round through them."""

    def __init__(self, teacher: nn.Module, student: nn.Module, pool: Part, *, temperature: float, seed: int) -> None:
        super().__init__(teacher, student, temperature=temperature)
        self.pool, self.seed = pool, seed
        self._batches: Batches | None = None
        self._state: dict[str, Any] | None = None

    def add(self, part: Part) -> None:
        """More images; the order of all is shuffled anew."""
        old = self.pool
        self.pool = Part(torch.cat((old.images, part.images)), torch.cat((old.labels, part.labels)))
        self._batches = self._state = None

    def views(self, images: Tensor, labels: Tensor) -> Tensor:
        if self._batches is None:
            self._batches = Batches(self.pool, min(len(images), len(self.pool)), self.seed)
            if self._state is not None:
                self._batches.load_state_dict(self._state)
        return self._batches.next().images

    def state_dict(self) -> dict[str, Any]:
        return {} if self._batches is None else self._batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state, self._batches = state or None, None
