"""Training method `generated`: distillation on real images with generated hard images among them, renewed when due."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from torch import nn

from experiments.generation.generations import Generations
from experiments.methods.base import Distillation
from experiments.methods.image_pool import build_generations
from experiments.methods.mixed_batches import MixedBatches
from experiments.training import distributed
from experiments.training.accuracy import accuracy
from hard_aug.data import ImageSet, Refresh, Replay, read_shards
from hard_aug.models.eval_mode import unwrap_model

if TYPE_CHECKING:
    from experiments.methods.factory import MethodContext


class GeneratedImages(Distillation):
    """Distillation on the batches of a `MixedBatches`. The network evaluations exclude the generation of images.

    Args:
        teacher: the frozen network.
        student: the network to be trained.
        search: the config group `search`.
        generation: the config group `generation`.
        folder: generated images, `<run of experiments.generate>/images`; None: all are generated here.
        student_from: folder of the finished run whose student the first images are generated against.
        ratio: probability that a slot of a batch holds a hard image.
        replay: fraction of the hard images from older generations.
        capacity: of the pool, images; None: no limit.
        refresh: settings of `Refresh`, whose epochs are those of the real images; its accuracy is that on validation
            images in distribution, since nothing is selected on the test set's kind.
        temperature: of the distillation.
        seed: of the order and the draws.
        context: provides networks and data.

    Raises:
        ValueError: images or generative models that do not fit the data, or there are no first images.
        FileNotFoundError: there is no such folder.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        *,
        search: DictConfig,
        generation: DictConfig,
        folder: str | None,
        student_from: str | None,
        ratio: float,
        replay: float,
        capacity: int | None,
        refresh: DictConfig,
        temperature: float,
        seed: int,
        context: MethodContext,
    ) -> None:
        super().__init__(teacher, student, temperature=temperature)
        if (folder is None) == (student_from is None):
            raise ValueError(
                f"method.folder={folder} and method.student_from={student_from}: expected one of the two: generated "
                "images, or the folder of a finished run, such as one of method=kd, to generate the first ones against"
            )
        splits, self.refresh, self._step = context.splits, Refresh(**refresh), 0
        self.pool, self.validation = Replay(capacity=capacity, old_fraction=replay, seed=seed), splits.validation
        if folder is not None:
            store = read_shards(folder)
            if store.classes != tuple(splits.classes):
                raise ValueError(
                    f"{folder} has the classes {store.classes}, the data {splits.classes}: expected the same"
                )
            self.pool.add(store.images)
        batch_size = min(context.config.batch_size, len(splits.train))
        settings = {"ratio": ratio, "batch_size": batch_size, "classes": splits.classes, "seed": seed}
        self.batches = RefreshedBatches(self, splits.train, settings)
        self.generations: Generations | None = None
        if folder is None or self.refresh.every is not None or self.refresh.patience is not None:
            self.generations = build_generations(search, generation, context, first=len(self.pool) > 0)
        self._first = None if student_from is None else context.trained_student(Path(student_from))
        self._due = folder is None

    def generate(self) -> None:
        """Add a generation of images to the pool if one is due."""
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
        if self.refresh.patience is not None:
            value = distributed.all_reduce_mean({"value": accuracy(student, self.validation)})["value"]
        self._due = self.refresh.is_due(epoch, value)

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
        refresh = self.refresh.state_dict()
        return {"step": self._step, "due": self._due, "refresh": refresh, "generations": generations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Method.load_state_dict`."""
        self._step, self._due = state["step"], state["due"]
        self.refresh.load_state_dict(state["refresh"])
        if self.generations is not None:
            self.generations.load_state_dict(state["generations"])


class RefreshedBatches(MixedBatches):
    """Batches before which a method generates the hard images that are due."""

    def __init__(self, method: GeneratedImages, real: ImageSet, settings: dict[str, Any]) -> None:
        super().__init__(real, method.pool, **settings)
        self.method = method

    def next(self) -> ImageSet:
        """See `MixedBatches.next`."""
        self.method.generate()
        return super().next()
