"""Training methods whose second view is a batch of other images, real ones or generated against the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from experiments.generation.generations import build_generations
from experiments.methods.base import TwoViewMethod
from experiments.training.setup import Setup
from hard_aug.data import Replay
from hard_aug.utils.checks import check_integer


@dataclass(eq=False, kw_only=True)
class SecondBatch(TwoViewMethod):
    """The second view is another batch of training images: distillation on as many images as `Pool` uses."""

    mixes = True
    setup: Setup

    def second_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `TwoViewMethod.second_view`."""
        part = self.setup.splits.train
        rows = torch.randint(len(part), (len(images),), generator=self._generator)
        return part[rows.to(part.device)].materialize().images


@dataclass(eq=False, kw_only=True)
class Pool(TwoViewMethod):
    """The second view is drawn uniformly from images generated against the student so far.

    The network evaluations exclude the generation.

    Attributes:
        search: the config group `search`.
        generation: the config group `generation`.
        refresh_every: steps from one generation to the next; the first one is before the first step.
        setup: networks and data.

    Raises:
        ValueError: `refresh_every` is below 1, or see `build_generations`; at a step, no image was accepted.
    """

    mixes = True
    search: DictConfig
    generation: DictConfig
    refresh_every: int
    setup: Setup

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer(**{"method.refresh_every": self.refresh_every})
        self.pool, self._step = Replay(), 0
        self.generations = build_generations(self.search, self.generation, self.setup, self.teacher)

    def second_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `TwoViewMethod.second_view`."""
        if self.generations.count <= self._step // self.refresh_every:
            self.pool.add(self.generations(self.student))
        if self.pool.images is None:
            raise ValueError("method=pool: no image was accepted; change method.search or method.generation")
        rows = torch.randint(len(self.pool), (len(images),), generator=self._generator)
        return self.pool.images[rows].images.to(images.device).float() / 255

    def after_step(self) -> None:
        """See `Method.after_step`."""
        self._step += 1

    @property
    def failure_metrics(self) -> dict[str, float]:
        """See `Method.failure_metrics`; of the first generation, and the cost of all."""
        return self.generations.failure_metrics()

    def scalars(self) -> dict[str, float]:
        """See `Method.scalars`."""
        return {"hard_images": float(len(self.pool))}

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`; contains the generated images."""
        made = {"generations": self.generations.state_dict(), "pool": self.pool.state_dict()}
        return super().state_dict() | {"step": self._step} | made

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        super().load_state_dict(state)
        self._step = state["step"]
        self.generations.load_state_dict(state["generations"])
        self.pool.load_state_dict(state["pool"])
