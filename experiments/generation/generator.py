"""HardImageGenerator: hard images for a student, by a search of `hard_aug.synthesis` with a diffusion model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.configuration.parts import completed
from experiments.models import SHIPPED, diffusion_model
from experiments.training.accuracy import finite_failure_metrics
from experiments.training.setup import Setup
from hard_aug.data import HardImages, Splits
from hard_aug.generative import DiffusionModel, DiffusionSampler
from hard_aug.synthesis import Acceptance, ImageSearch, Score, Unguided, synthesize

#: Distance between the seeds of the images of two runs with consecutive seeds.
SEEDS = 1_000_000_007


def load_diffusion_model(generation: DictConfig, splits: Splits) -> DiffusionModel:
    """Load the diffusion model of the config group `generation` to the data's device, and check that it fits the data.

    Raises:
        ValueError: the images of the model have another size or number of channels, or the classes differ in number.
        OSError: the files do not exist.
    """
    channels, height, width = splits.train.shape
    device = str(splits.train.device)
    model = diffusion_model(generation.models, guidance_scale=generation.guidance_scale, device=device)
    own_height, own_width = model.image_size()
    own_channels = model.config.in_channels if model.codec is None else model.codec.channels
    classes = getattr(model.condition, "classes", None)
    generates = f"generation.models={generation.models or SHIPPED} generates images of"
    if (own_height, own_width) != (height, width):
        raise ValueError(
            f"{generates} {own_height} x {own_width} and the data has {height} x {width}; "
            f"give data.canvas={own_height} (of a folder data.size={own_height}), or models of that size"
        )
    if own_channels != channels:
        raise ValueError(f"{generates} {own_channels} channels and the data has {channels}; give models of such images")
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
        setup: classes, seed, and real images to start from if sampling does not start from noise.
        teacher: has to predict the class.
        judge: network outside of the search that has to agree; None: none.
    """

    def __init__(
        self,
        model: DiffusionModel,
        search: DictConfig,
        generation: DictConfig,
        setup: Setup,
        *,
        teacher: nn.Module,
        judge: nn.Module | None,
    ) -> None:
        self.settings, self.teacher, self.train = generation, teacher, setup.splits.train
        self.classes, self.seed = len(setup.splits.classes), setup.config.seed
        self.sampler = DiffusionSampler(model, steps=generation.steps, strength=generation.strength)
        self.search = completed(instantiate(search), ImageSearch, self.sampler, name="search")
        self.acceptance = Acceptance(teacher, judge=judge, **generation.acceptance)

    def __call__(
        self, student: nn.Module, indices: Tensor, *, search: ImageSearch | None = None
    ) -> tuple[HardImages, dict[str, float]]:
        """Generate images; each depends on its index and the seed alone.

        Each class that the student should be confident in has its own score.

        Args:
            student: student that the images should be hard for.
            indices: `(N,)` integers >= 0, indices of the images.
            search: None: the configured one.

        Returns:
            The images, and their cost: seconds, network evaluations and rejections.
        """
        towards = self.settings.towards
        wrong = 1 + indices // self.classes % (self.classes - 1) if towards else torch.zeros_like(indices)
        rows = [(wrong == offset).nonzero().flatten() for offset in wrong.unique()]
        parts, cost = [], Counter[str]()
        for some in rows:
            offset = {"towards": int(wrong[some[0]])} if towards else {}
            objective = instantiate(self.settings.objective, **offset)
            score = Score(teacher=self.teacher, student=student, objective=objective)
            found, more = self._search(search or self.search, score, indices[some])
            parts.append(found)
            cost.update(more)
        return HardImages.cat(parts)[torch.cat(rows).argsort()], dict(cost)

    def failure_metrics(
        self, student: nn.Module, indices: Tensor, hard: HardImages, **networks: nn.Module | None
    ) -> dict[str, float]:
        """Return the failure metrics of images made against `student`, compared with unguided ones of the same seeds.

        `networks`: `judge` and `other_student`, see `hard_aug.synthesis.failure_metrics`.
        """
        unguided, _ = self(student, indices, search=Unguided(self.sampler))
        scores = {"scores_before": unguided.scores_after, "scores_after": hard.scores_after}
        networks |= {"teacher": self.teacher, "student": student}
        return finite_failure_metrics(hard.images, unguided.images, hard.labels, **networks, **scores)

    def _search(self, search: ImageSearch, score: Score, indices: Tensor) -> tuple[HardImages, dict[str, Any]]:
        source, images, labels = torch.full_like(indices, -1), None, indices % self.classes
        if self.settings.strength < 1:
            source = indices % len(self.train)
            real = self.train[source.to(self.train.device)].materialize()
            images, labels = real.images, real.labels
        labels, seeds = labels.to(self.train.device), self.seed * SEEDS + indices
        size = self.settings.batch_size
        found = synthesize(search, score, self.acceptance, labels, seeds=seeds, images=images, batch_size=size)
        stored = {name: getattr(found, name).cpu() for name in ("images", "labels", "soft_labels", "seeds", "accepted")}
        scores = {name: getattr(found, name).float().cpu() for name in ("scores_before", "scores_after")}
        rejected = {f"rejected_{rule}": count for rule, count in found.rejected.items()}
        cost = {"seconds": round(found.seconds, 3), **rejected, **found.nfe.as_dict()}
        return HardImages(source=source, **stored, **scores), cost
