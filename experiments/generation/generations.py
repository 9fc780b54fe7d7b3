"""Generations of hard images during a training, each against the student at that time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from experiments.generation.generator import HardImageGenerator, load_diffusion_model
from experiments.training import distributed
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from experiments.training.setup import Setup
from hard_aug.data import HardImages
from hard_aug.models.eval_mode import unwrap_model

#: Number of images of a generation whose failure metrics are computed.
MEASURED = 500


class Generations:
    """Generates one generation after the other, with the work split over processes; all get the same images.

    Args:
        generator: the search; its settings have the number of images.
        first: number of the first generation, from which its images' indices follow.
        progress: a running progress display.
        stop: checked after each batch; a generation that is stopped starts anew.
        networks: `judge` and `other_student` of the failure metrics.

    Attributes:
        count: number of the next generation.
        metrics: failure metrics of each generation so far.
    """

    def __init__(
        self, generator: HardImageGenerator, first: int, progress: Progress, stop: Stop, **networks: nn.Module | None
    ) -> None:
        self.generator, self.count, self.progress, self.stop = generator, first, progress, stop
        self.networks = networks
        self.metrics: list[dict[str, float]] = []
        self._cost: Counter[str] = Counter()

    def __call__(self, student: nn.Module) -> HardImages:
        """Return the next generation, against a student, rejected images included. Collective.

        Raises:
            KeyboardInterrupt: a stop was requested.
        """
        student = unwrap_model(student)
        distributed.broadcast_buffers(student)  # so that all processes use the same student
        settings = self.generator.settings
        indices = self.count * settings.images + torch.arange(settings.images)
        mine = indices[distributed.rank() :: distributed.world_size()]
        bar = self.progress.task(f"hard images {self.count}", total=len(mine))
        parts, cost, done = [], Counter[str](), 0
        for numbers in mine.split(settings.batch_size):
            images, more = self.generator(student, numbers)
            parts.append(images)
            cost.update(more)
            done += len(numbers)
            bar.update(done)
            if self.stop.requested and distributed.world_size() == 1:  # several processes must not wait for each other
                raise KeyboardInterrupt
        images = HardImages.cat([part for theirs in distributed.all_gather(parts) for part in theirs])
        images = images[images.seeds.argsort()]
        found = self.generator.failure_metrics(student, indices[:MEASURED], images[:MEASURED], **self.networks)
        self.metrics.append(distributed.all_reduce_mean(found))
        for theirs in distributed.all_gather(dict(cost)):
            self._cost.update(theirs)
        self._cost.update(images=len(images), accepted=int(images.accepted.sum()))
        self.count += 1
        return images

    def failure_metrics(self) -> dict[str, float]:
        """Return the failure metrics of the first generation, and the cost of all; empty before the first one."""
        if not self.metrics:
            return {}
        images = self._cost["images"]
        return self.metrics[0] | {
            "accepted": round(self._cost["accepted"] / images, 4),
            "evaluations_per_image": round(self._cost["total"] / images, 2),
            "seconds_per_image": round(self._cost["seconds"] / images, 4),
            "generation_seconds": round(self._cost["seconds"], 1),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the number of generations, their failure metrics and their cost."""
        return {"count": self.count, "metrics": self.metrics, "cost": dict(self._cost)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`."""
        self.count, self.metrics, self._cost = state["count"], list(state["metrics"]), Counter(state["cost"])


def build_generations(
    search: DictConfig, generation: DictConfig, setup: Setup, teacher: nn.Module, *, first: int = 0
) -> Generations:
    """Build what generates images during a training from the config groups `search` and `generation`.

    Failure metrics are measured by a judge if it is part of the acceptance or `failure_metrics.judge` is set, and on a
    second student if students start from a distilled one (`initial`). `first` is the number of the first generation.

    Raises:
        ValueError: the generative models do not fit the data.
        OSError: the generative models do not exist.
    """
    model, config = load_diffusion_model(generation, setup.splits), setup.config
    judge = setup.teacher(other=True)[0] if generation.judge or config.failure_metrics.judge else None
    accepts = judge if generation.judge else None
    generator = HardImageGenerator(model, search, generation, setup, teacher=teacher, judge=accepts)
    other = setup.student(teacher, other=True) if config.initial is not None else None
    return Generations(generator, first, setup.progress, setup.stop, judge=judge, other_student=other)
