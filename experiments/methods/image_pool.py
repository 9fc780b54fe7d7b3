"""Training methods whose second view is a batch of other images, real ones or generated against the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.generation.generations import Generations
from experiments.generation.generator import HardImageGenerator, load_diffusion_model
from experiments.methods.base import SeededViews
from hard_aug.data import Replay
from hard_aug.utils.checks import check_integer

if TYPE_CHECKING:
    from experiments.methods.factory import MethodContext


class SecondBatch(SeededViews):
    """The second view is another batch of training images: distillation on as many images as `Pool` uses."""

    mixes = True  # the views do not show the same image

    def __init__(
        self, teacher: nn.Module, student: nn.Module, *, temperature: float, seed: int, context: MethodContext
    ) -> None:
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        self.images = context.splits.train

    def second_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `TwoViewMethod.second_view`."""
        rows = torch.randint(len(self.images), (len(images),), generator=self._generator)
        return self.images[rows.to(self.images.device)].materialize().images


class Pool(SeededViews):
    """The second view is drawn uniformly from images generated against the student so far.

    The network evaluations exclude the generation.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        search: the config group `search`.
        generation: the config group `generation`.
        refresh_every: steps from one generation to the next; the first one is before the first step.
        temperature: of the distillation.
        seed: of the draws.
        context: provides networks and data.

    Raises:
        ValueError: `refresh_every` is below 1, or see `build_generations`; at a step, no image was accepted.
    """

    mixes = True  # the views do not show the same image

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        *,
        search: DictConfig,
        generation: DictConfig,
        refresh_every: int,
        temperature: float,
        seed: int,
        context: MethodContext,
    ) -> None:
        super().__init__(teacher, student, temperature=temperature, seed=seed)
        check_integer(**{"method.refresh_every": refresh_every})
        self.student, self.every, self.pool, self._step = student, refresh_every, Replay(), 0
        self.generations = build_generations(search, generation, context)

    def second_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `TwoViewMethod.second_view`."""
        if self.generations.count <= self._step // self.every:
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


def build_generations(
    search: DictConfig, generation: DictConfig, context: MethodContext, *, first: int = 0
) -> Generations:
    """Build what generates images during a training.

    Failure metrics are measured by a judge if it is part of the acceptance or `failure_metrics.judge` is set, and on a
    second student if students start from a distilled one (`initial`).

    Args:
        search: the config group `search`.
        generation: the config group `generation`.
        context: provides networks and data.
        first: number of the first generation.

    Raises:
        ValueError: the generative models do not fit the data.
        OSError: the generative models do not exist.
    """
    config, splits = context.config, context.splits
    model = load_diffusion_model(generation, splits)
    judge = context.other_teacher() if generation.judge or config.failure_metrics.judge else None
    generator = HardImageGenerator(
        model,
        search,
        generation,
        teacher=context.teacher,
        judge=judge if generation.judge else None,
        train=splits.train,
        classes=len(splits.classes),
        seed=context.seed,
    )
    other = context.other_student() if config.initial is not None else None
    return Generations(generator, first, context.progress, context.stop, judge=judge, other_student=other)
