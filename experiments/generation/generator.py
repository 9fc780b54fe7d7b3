"""HardImageGenerator: hard images for a student, from the `generation` part of a configuration."""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.models.pretrained_generative import SHIPPED, diffusion_model
from experiments.runs.failure_metrics import finite_failure_metrics
from hard_aug.data import HardImages, ImageSet, Splits
from hard_aug.generative import DiffusionModel, DiffusionSampler
from hard_aug.synthesis import Acceptance, ImageSearch, Score, SynthesisBatch, Unguided, synthesize


def load_diffusion_model(config: DictConfig, splits: Splits) -> DiffusionModel:
    """Load the diffusion model of a configuration, and check that it fits the data.

    Args:
        config: configuration with `generation`.
        splits: the data.

    Raises:
        ValueError: the images of the model have another size or number of channels, or the classes differ in number.
        OSError: the files do not exist.
    """
    models, (channels, *size) = config.generation.models or SHIPPED, splits.train.shape
    device, guidance_scale = str(splits.train.device), config.generation.guidance_scale
    model = diffusion_model(str(models), guidance_scale=guidance_scale, device=device)
    model_channels = model.config.in_channels if model.codec is None else model.codec.channels
    generates = f"generation.models={models} generates images of"
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
    """A search of `hard_aug.synthesis` with its networks.

    Args:
        config: configuration with `generation`, `search` and `seed`.
        model: the diffusion model, see `load_diffusion_model`.
        teacher: teacher, which has to predict the class.
        judge: network outside of the search that has to agree; None: none.
        train: real images to start from if sampling does not start from noise.
        classes: number of classes K.
    """

    def __init__(
        self,
        config: DictConfig,
        model: DiffusionModel,
        *,
        teacher: nn.Module,
        judge: nn.Module | None,
        train: ImageSet,
        classes: int,
    ) -> None:
        self.settings, self.seed, self.train, self.classes = config.generation, int(config.seed), train, classes
        self.teacher, self.judge, self.device = teacher, judge, train.device
        self.sampler = DiffusionSampler(model, steps=self.settings.steps, strength=self.settings.strength)
        self.search: ImageSearch = instantiate(config.search)(self.sampler)
        self.acceptance = Acceptance(teacher, judge=judge, **self.settings.acceptance)

    def failure_metrics(
        self,
        student: nn.Module,
        indices: Tensor,
        *,
        hard: HardImages | None = None,
        other_student: nn.Module | None = None,
    ) -> dict[str, float]:
        """Compute the failure metrics of hard images, compared with unguided ones of the same seeds.

        Args:
            student: student that the images were searched against.
            indices: `(N,)`, indices of the images.
            hard: the images, if they have been generated already; None: they are generated again.
            other_student: student with another seed, for `transfer`.
        """
        hard = self(student, indices)[0] if hard is None else hard
        unguided, _, _ = self._generate(Unguided(self.sampler), student, indices)
        return finite_failure_metrics(
            hard.images,
            unguided.images,
            hard.labels,
            teacher=self.teacher,
            student=student,
            judge=self.judge,
            other_student=other_student,
            scores_before=unguided.scores_after.float().cpu(),
            scores_after=hard.scores_after,
        )

    def __call__(self, student: nn.Module, indices: Tensor) -> tuple[HardImages, dict[str, Any]]:
        """Generate images; each depends on its index and the seed alone.

        Args:
            student: student that the images should be hard for.
            indices: `(N,)` integers >= 0, indices of the images.

        Returns:
            The images, and their cost.
        """
        found, seeds, source = self._generate(self.search, student, indices)
        hard = HardImages(
            images=found.images.cpu(),
            labels=found.labels.cpu(),
            soft_labels=found.soft_labels.cpu(),
            seeds=seeds,
            scores_before=found.scores_before.float().cpu(),
            scores_after=found.scores_after.float().cpu(),
            accepted=found.accepted.cpu(),
            source=source,
        )
        rejected = {f"rejected_{rule}": count for rule, count in found.rejected.items()}
        return hard, {"seconds": round(found.seconds, 3), **rejected, **found.nfe.as_dict()}

    def _generate(
        self, search: ImageSearch, student: nn.Module, indices: Tensor
    ) -> tuple[SynthesisBatch, Tensor, Tensor]:
        """Return the images, their seeds, and the indices of the real images they start from (-1: from noise)."""
        score = Score(teacher=self.teacher, student=student, objective=instantiate(self.settings.objective))
        seeds = self.seed * 1_000_000_007 + indices
        source = torch.full_like(indices, -1)
        images, labels = None, indices % self.classes
        if self.settings.strength < 1:
            source = indices % len(self.train)
            real = self.train[source.to(self.device)].materialize()
            images, labels = real.images, real.labels.cpu()
        found = synthesize(
            search,
            score,
            self.acceptance,
            labels.to(self.device),
            seeds=seeds,
            images=images,
            batch_size=self.settings.batch_size,
        )
        return found, seeds, source
