"""The student `mixed`: distillation on real images with generated hard ones among them, made anew when that is due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from experiments import processes
from experiments.data import Part
from experiments.evaluation import accuracy
from experiments.hard_images import Mixed, Refresh
from experiments.methods import Distillation
from experiments.shards import HardImages
from hard_aug.models.guard import unwrapped

Generate = Callable[[nn.Module, int], tuple[HardImages, dict[str, float]]]


class Mixing(Distillation):
    """Distillation on the batches of a `Mixed`. What making the images costs is not in its network evaluations.

    Args:
        teacher, student: the networks.
        batches: what the student is trained on.
        refresh: when the pool gets a new generation.
        generate: a student and the number of the generation to its images, and to numbers that say how they fail, if
            they do; None where none is ever due.
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
        generate: Generate | None,
        validation: Part,
        temperature: float,
    ) -> None:
        super().__init__(teacher, student, temperature=temperature)
        self.batches, self.refresh, self.generate, self.validation = batches, refresh, generate, validation
        self._step = 0
        self.detected: dict[str, float] = {}  # of the newest generation
        real = batches.batches
        self._epoch = max(1, len(real.part) // real.batch_size)

    def after_step(self) -> None:
        self._step += 1
        if self._step % self._epoch or self.generate is None:
            return
        student = unwrapped(self.student)
        processes.share_buffers(student)  # so that all processes see one student
        value = None
        if self.refresh.patience is not None:
            value = processes.mean({"value": accuracy(student, self.validation)})["value"]
        if self.refresh.due(self._step // self._epoch, value):
            images, self.detected = self.generate(student, self.batches.pool.generations)
            self.batches.pool.add(images)

    def scalars(self) -> dict[str, float]:
        pool = self.batches.pool
        detected = {f"detectors/{name}": value for name, value in self.detected.items()}
        return {"hard_images": float(len(pool)), "generations": float(pool.generations), **detected}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step, "refresh": self.refresh.state_dict(), "detected": self.detected}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step, self.detected = state["step"], state["detected"]
        self.refresh.load_state_dict(state["refresh"])
