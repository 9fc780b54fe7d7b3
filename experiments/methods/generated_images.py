"""Training method `generated`: distillation on real images with generated hard images among them, renewed when due."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.generation.generations import Generations, build_generations
from experiments.methods.base import Distillation
from experiments.methods.mixed_batches import MixedBatches
from experiments.training import distributed
from experiments.training.accuracy import accuracy
from experiments.training.setup import Setup
from hard_aug.data import Refresh, Replay, read_shards
from hard_aug.models.eval_mode import unwrap_model


@dataclass(eq=False, kw_only=True)
class GeneratedImages(Distillation):
    """Distillation on the batches of a `MixedBatches`. The network evaluations exclude the generation of images.

    Attributes:
        search: the config group `search`.
        generation: the config group `generation`.
        folder: generated images, `<run of experiments.generate>/images`; None: all are generated here.
        student_from: folder of the finished run whose student the first images are generated against.
        ratio: probability that a slot of a batch holds a hard image.
        replay: fraction of the hard images from older generations.
        capacity: of the pool, images; None: no limit.
        refresh: settings of `Refresh`, whose epochs are those of the real images; its accuracy is that on validation
            images in distribution, since nothing is selected on the test set's kind.
        seed: of the order and the draws.
        setup: networks and data.

    Raises:
        ValueError: images or generative models that do not fit the data, or there are no first images.
        FileNotFoundError: there is no such folder.
    """

    search: DictConfig
    generation: DictConfig
    folder: str | None
    student_from: str | None
    ratio: float
    replay: float
    capacity: int | None
    refresh: DictConfig
    seed: int
    setup: Setup

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.student_from is None):
            raise ValueError(
                f"method.folder={self.folder} and method.student_from={self.student_from}: expected one of the two: "
                "generated images, or the folder of a finished run, such as one of method=kd, to generate the first "
                "ones against"
            )
        splits, self._schedule, self._step = self.setup.splits, Refresh(**self.refresh), 0
        self.pool = Replay(capacity=self.capacity, old_fraction=self.replay, seed=self.seed)
        if self.folder is not None:
            store = read_shards(self.folder)
            if store.classes != tuple(splits.classes):
                raise ValueError(
                    f"{self.folder} has the classes {store.classes}, the data {splits.classes}: expected the same"
                )
            self.pool.add(store.images)
        self.batches: MixedBatches = MixedBatches(
            splits.train,
            self.pool,
            ratio=self.ratio,
            batch_size=min(self.setup.config.batch_size, len(splits.train)),
            classes=splits.classes,
            seed=self.seed,
            before_batch=self._generate,
        )
        self.generations: Generations | None = None
        if self.folder is None or self._schedule.every is not None or self._schedule.patience is not None:
            first = int(len(self.pool) > 0)  # images of a folder are generation 0
            self.generations = build_generations(self.search, self.generation, self.setup, self.teacher, first=first)
        self._first = None if self.student_from is None else self.setup.trained_student(Path(self.student_from))
        self._due = self.folder is None

    def _generate(self) -> None:
        if self.generations is not None and self._due:
            student = self.student if self._first is None or self.generations.count else self._first
            self.pool.add(self.generations(student))
            self._due = False

    def after_step(self) -> None:
        """See `Method.after_step`."""
        self._step += 1
        epoch, rest = divmod(self._step, self.batches.batches.steps_per_epoch)
        if self.generations is None or rest:
            return
        student, value = unwrap_model(self.student), None
        distributed.broadcast_buffers(student)  # so that all processes evaluate the same student
        if self._schedule.patience is not None:
            found = accuracy(student, self.setup.splits.validation)
            value = distributed.all_reduce_mean({"value": found})["value"]
        self._due = self._schedule.is_due(epoch, value)

    @property
    def failure_metrics(self) -> dict[str, float]:
        """See `Method.failure_metrics`; of the first generation, and the cost of all."""
        return {} if self.generations is None else self.generations.failure_metrics()

    def scalars(self) -> dict[str, float]:
        """See `Method.scalars`; failure metrics are those of the newest generation."""
        metrics = [] if self.generations is None else self.generations.metrics
        newest = {f"failure_metrics/{name}": value for name, value in (metrics[-1] if metrics else {}).items()}
        return {"hard_images": float(len(self.pool)), "generations": float(self.pool.generations), **newest}

    def state_dict(self) -> dict[str, Any]:
        """See `Method.state_dict`; the pool is part of the batches' state."""
        generations = None if self.generations is None else self.generations.state_dict()
        refresh = self._schedule.state_dict()
        return {"step": self._step, "due": self._due, "refresh": refresh, "generations": generations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self._step, self._due = state["step"], state["due"]
        self._schedule.load_state_dict(state["refresh"])
        if self.generations is not None:
            self.generations.load_state_dict(state["generations"])
