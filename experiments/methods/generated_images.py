"""Training method `generated`: distillation on real images with generated hard images among them, renewed when due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from experiments.methods.base import Distillation
from experiments.methods.mixed_batches import MixedBatches
from experiments.training import distributed as processes
from experiments.training.accuracy import accuracy
from hard_aug.data import HardImages, ImageSet, Refresh
from hard_aug.models.eval_mode import unwrap_model

#: `(student, generation) -> (images, failure metrics)`.
Generate = Callable[[nn.Module, int], tuple[HardImages, dict[str, float]]]


class GeneratedImages(Distillation):
    """Distillation on the batches of a `MixedBatches`. The network evaluations exclude the cost of image generation.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        batches: batches of real and hard images.
        refresh: when the pool gets a new generation of images.
        generate: generates the images of a generation, and their failure metrics; None if none is ever due.
        validation: images on which `refresh` monitors the accuracy.
        temperature: of the distillation.

    Attributes:
        failure_metrics: of the newest generation.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        batches: MixedBatches,
        *,
        refresh: Refresh,
        generate: Generate | None,
        validation: ImageSet,
        temperature: float,
    ) -> None:
        super().__init__(teacher, student, temperature=temperature)
        self.batches, self.refresh, self.generate, self.validation = batches, refresh, generate, validation
        self._step = 0
        self.failure_metrics: dict[str, float] = {}
        real = batches.batches
        self._epoch = max(1, len(real.part) // real.batch_size)

    def after_step(self) -> None:
        """See `Method.after_step`."""
        self._step += 1
        if self._step % self._epoch or self.generate is None:
            return
        student = unwrap_model(self.student)
        processes.broadcast_buffers(student)  # so that all processes use the same student
        value = None
        if self.refresh.patience is not None:
            value = processes.all_reduce_mean({"value": accuracy(student, self.validation)})["value"]
        if self.refresh.is_due(self._step // self._epoch, value):
            images, self.failure_metrics = self.generate(student, self.batches.pool.generations)
            self.batches.pool.add(images)

    def scalars(self) -> dict[str, float]:
        """See `Method.scalars`."""
        pool = self.batches.pool
        metrics = {f"failure_metrics/{name}": value for name, value in self.failure_metrics.items()}
        return {"hard_images": float(len(pool)), "generations": float(pool.generations), **metrics}

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`."""
        return {"step": self._step, "refresh": self.refresh.state_dict(), "failure_metrics": self.failure_metrics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self._step, self.failure_metrics = state["step"], state["failure_metrics"]
        self.refresh.load_state_dict(state["refresh"])
