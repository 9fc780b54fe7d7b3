"""The student `mixed`: distillation on real images with generated hard ones among them, made anew when that is due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from experiments.data import Part
from experiments.evaluation import accuracy
from experiments.hard_images import Mixed, Refresh
from experiments.methods import Distillation
from experiments.shards import HardImages
from hard_aug.models.guard import unwrapped


class Mixing(Distillation):
    """Distillation on the batches of a `Mixed`. What making the images costs is not in its network evaluations.

    Args:
        teacher, student: the networks.
        batches: what the student is trained on.
        refresh: when the pool gets a new generation.
        generate: a student and the number of the generation to its images; None where none is ever due.
        validation: what `refresh` watches.
        temperature: of the distillation.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        batches: Mixed,
        *,
        refresh: Refresh,
        generate: Callable[[nn.Module, int], HardImages] | None,
        validation: Part,
        temperature: float,
    ) -> None:
        super().__init__(teacher, student, temperature=temperature)
        self.batches, self.refresh, self.generate, self.validation = batches, refresh, generate, validation
        self._step = 0
        real = batches.batches
        self._epoch = max(1, len(real.part) // real.batch_size)

    def after_step(self) -> None:
        self._step += 1
        if self._step % self._epoch or self.generate is None:
            return
        student = unwrapped(self.student)
        value = accuracy(student, self.validation) if self.refresh.patience is not None else None
        if self.refresh.due(self._step // self._epoch, value):
            self.batches.pool.add(self.generate(student, self.batches.pool.generations))

    def scalars(self) -> dict[str, float]:
        pool = self.batches.pool
        return {"hard_images": float(len(pool)), "generations": float(pool.generations)}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step, "refresh": self.refresh.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self.refresh.load_state_dict(state["refresh"])
