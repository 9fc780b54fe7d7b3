"""HardImageGenerator: hard images for a student, by a search of `hard_aug.synthesis` with a diffusion model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.models import SHIPPED, diffusion_model
from experiments.training.accuracy import finite_failure_metrics
from hard_aug.data import HardImages, ImageSet, Splits
from hard_aug.generative import DiffusionModel, DiffusionSampler
from hard_aug.synthesis import Acceptance, ImageSearch, Score, Unguided, synthesize

#: Distance between the seeds of the images of two runs with consecutive seeds.
SEEDS = 1_000_000_007


def load_diffusion_model(generation: DictConfig, splits: Splits) -> DiffusionModel:
    """Load the diffusion model of a configuration to the data's device, and check that it fits the data.

    Args:
        generation: the config group `generation`.
        splits: the data.

    Raises:
        ValueError: the images of the model have another size or number of channels, or the classes differ in number.
        OSError: the files do not exist.
    """
    folder, (channels, *size) = generation.models, splits.train.shape
    device = str(splits.train.device)
    model = diffusion_model(folder, guidance_scale=generation.guidance_scale, device=device)
    model_channels = model.config.in_channels if model.codec is None else model.codec.channels
    generates = f"generation.models={folder or SHIPPED} generates images of"
    if model.image_size() != tuple(size):
        height, width = model.image_size()
        raise ValueError(
            f"{generates} {height} x {width} and the data has {size[0]} x {size[1]}; give data.canvas={height} (of a "
            f"folder data.size={height}), or models of that size"
        )
    if model_channels != channels:
        raise ValueError(
            f"{generates} {model_channels} channels and the data has {channels}; give models of such images"
        )
    classes = getattr(model.condition, "classes", None)
    if classes is not None and classes != len(splits.classes):
        raise ValueError(
            f"{generates} {classes} classes and the data has {len(splits.classes)}; give models of this data"
        )
    return model


class HardImageGenerator:
    """A search with its networks.

    Args:
        model: the diffusion model, see `load_diffusion_model`.
        search: the config group `search`.
        generation: the config group `generation`.
        teacher: has to predict the class.
        judge: network outside of the search that has to agree; None: none.
        train: real images to start from if sampling does not start from noise.
        classes: number of classes K.
        seed: of the run.
    """

    def __init__(
        self,
        model: DiffusionModel,
        search: DictConfig,
        generation: DictConfig,
        *,
        teacher: nn.Module,
        judge: nn.Module | None,
        train: ImageSet,
        classes: int,
        seed: int,
    ) -> None:
        self.settings, self.teacher, self.train, self.classes, self.seed = generation, teacher, train, classes, seed
        self.sampler = DiffusionSampler(model, steps=generation.steps, strength=generation.strength)
        self.search: ImageSearch = instantiate(search)(self.sampler)
        self.acceptance = Acceptance(teacher, judge=judge, **generation.acceptance)

    def __call__(self, student: nn.Module, indices: Tensor) -> tuple[HardImages, dict[str, float]]:
        """Generate images; each depends on its index and the seed alone.

        Args:
            student: student that the images should be hard for.
            indices: `(N,)` integers >= 0, indices of the images.

        Returns:
            The images, and their cost: seconds, network evaluations and rejections.
        """
        return self._generate(self.search, student, indices)

    def failure_metrics(
        self, student: nn.Module, indices: Tensor, hard: HardImages, **networks: nn.Module | None
    ) -> dict[str, float]:
        """Compute the failure metrics of hard images, compared with unguided ones of the same seeds.

        Args:
            student: student that the images were searched against.
            indices: `(N,)`, indices of the images.
            hard: the images.
            **networks: `judge` and `other_student`, see `hard_aug.synthesis.failure_metrics`.
        """
        unguided, _ = self._generate(Unguided(self.sampler), student, indices)
        return finite_failure_metrics(
            hard.images,
            unguided.images,
            hard.labels,
            teacher=self.teacher,
            student=student,
            scores_before=unguided.scores_after,
            scores_after=hard.scores_after,
            **networks,
        )

    def _generate(
        self, search: ImageSearch, student: nn.Module, indices: Tensor
    ) -> tuple[HardImages, dict[str, float]]:
        """Generate images, in turn for each class that the student should be confident in."""
        wrong = 1 + indices // self.classes % (self.classes - 1) if self.settings.towards else torch.zeros_like(indices)
        rows = [(wrong == offset).nonzero().flatten() for offset in wrong.unique()]
        parts, cost = [], Counter[str]()
        for some in rows:
            offset = {"towards": int(wrong[some[0]])} if self.settings.towards else {}
            score = Score(
                teacher=self.teacher, student=student, objective=instantiate(self.settings.objective, **offset)
            )
            found, more = self._search(search, score, indices[some])
            parts.append(found)
            cost.update(more)
        return HardImages.cat(parts)[torch.cat(rows).argsort()], dict(cost)

    def _search(self, search: ImageSearch, score: Score, indices: Tensor) -> tuple[HardImages, dict[str, Any]]:
        source, images, labels = torch.full_like(indices, -1), None, indices % self.classes
        if self.settings.strength < 1:
            source = indices % len(self.train)
            real = self.train[source.to(self.train.device)].materialize()
            images, labels = real.images, real.labels
        found = synthesize(
            search,
            score,
            self.acceptance,
            labels.to(self.train.device),
            seeds=self.seed * SEEDS + indices,
            images=images,
            batch_size=self.settings.batch_size,
        )
        hard = HardImages(
            images=found.images.cpu(),
            labels=found.labels.cpu(),
            soft_labels=found.soft_labels.cpu(),
            seeds=found.seeds,
            scores_before=found.scores_before.float().cpu(),
            scores_after=found.scores_after.float().cpu(),
            accepted=found.accepted.cpu(),
            source=source,
        )
        rejected = {f"rejected_{rule}": count for rule, count in found.rejected.items()}
        return hard, {"seconds": round(found.seconds, 3), **rejected, **found.nfe.as_dict()}
