"""Generator: hard images against a student, from the `generation` part of a configuration."""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.data import Part, Splits
from experiments.evaluation import finite
from experiments.shards import HardImages
from experiments.shipped import SHIPPED
from experiments.shipped import diffuser as load
from hard_aug.solvers import Acceptance, Chain, Diffuser, Score, Solver, Unguided, detect, synthesize


def diffuser_for(config: DictConfig, splits: Splits) -> Diffuser:
    """The generative models of a configuration, for the images and classes of its data.

    Raises:
        ValueError: models of another size, of other channels, or of fewer or more classes than the data has.
        OSError: no models there.
    """
    models, (channels, *size) = config.generation.models or SHIPPED, splits.train.shape
    diffuser = load(str(models), guidance_scale=config.generation.guidance_scale, device=str(splits.train.device))
    theirs = diffuser.config.in_channels if diffuser.codec is None else diffuser.codec.channels
    made = f"generation.models={models} makes images of"
    if diffuser.image_size() != tuple(size):
        height, width = diffuser.image_size()
        raise ValueError(
            f"{made} {height} x {width} and the data has {size[0]} x {size[1]}; give data.canvas={height} (of a folder "
            f"data.size={height}), or models of that size"
        )
    if theirs != channels:
        raise ValueError(f"{made} {theirs} channels and the data has {channels}; give models of such images")
    classes = getattr(diffuser.condition, "classes", None)
    if classes is not None and classes != len(splits.classes):
        raise ValueError(f"{made} {classes} classes and the data has {len(splits.classes)}; give models of this data")
    return diffuser


class Generator:
    """Any solver of `hard_aug.solvers` with its networks.

    Args:
        config: with `generation`, `solver` and `seed`.
        diffuser: see `diffuser_for`.
        teacher: whose answer is kept.
        judge: a network outside the search that has to agree; None: none.
        train: real images to start from, where the chain does not start from noise.
        classes: K.
    """

    def __init__(
        self,
        config: DictConfig,
        diffuser: Diffuser,
        *,
        teacher: nn.Module,
        judge: nn.Module | None,
        train: Part,
        classes: int,
    ) -> None:
        self.settings, self.seed, self.train, self.classes = config.generation, int(config.seed), train, classes
        self.teacher, self.judge, self.device = teacher, judge, train.device
        self.chain = Chain(diffuser, steps=self.settings.steps, strength=self.settings.strength)
        self.solver: Solver = instantiate(config.solver)(self.chain)
        self.acceptance = Acceptance(teacher, judge=judge, **self.settings.acceptance)

    def detectors(
        self,
        student: nn.Module,
        numbers: Tensor,
        *,
        guided: HardImages | None = None,
        other_student: nn.Module | None = None,
    ) -> dict[str, float]:
        """How the images of these numbers fail, if they do, beside unguided ones of the same seeds.

        Args:
            student: that they were made against.
            numbers: `(N,)` of images.
            guided: the images, if they are at hand; None: they are made again.
            other_student: of another seed, for `transfer`.
        """
        guided = self(student, numbers)[0] if guided is None else guided
        solver, self.solver = self.solver, Unguided(self.chain)
        try:
            unguided, _ = self(student, numbers)
        finally:
            self.solver = solver
        images, plain = (each.images.to(self.device).float() / 255 for each in (guided, unguided))
        found = detect(
            images,
            plain,
            guided.labels.to(self.device),
            teacher=self.teacher,
            student=student,
            judge=self.judge,
            other_student=other_student,
            scores_before=unguided.scores_after,
            scores_after=guided.scores_after,
        )
        return finite(found)

    def __call__(self, student: nn.Module, numbers: Tensor) -> tuple[HardImages, dict[str, Any]]:
        """The images of these numbers, and what they took; an image depends on its number and the seed alone.

        Args:
            student: that they are to be hard for.
            numbers: `(N,)` integers of at least 0.
        """
        score = Score(teacher=self.teacher, student=student, objective=instantiate(self.settings.objective))
        seeds = self.seed * 1_000_000_007 + numbers
        source = torch.full_like(numbers, -1)
        images, labels = None, numbers % self.classes
        if self.settings.strength < 1:
            source = numbers % len(self.train)
            real = self.train[source.to(self.device)].in_memory()
            images, labels = real.images, real.labels.cpu()
        found = synthesize(
            self.solver,
            score,
            self.acceptance,
            labels.to(self.device),
            seeds=seeds,
            images=images,
            batch_size=self.settings.batch_size,
        )
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
        return hard, {"seconds": round(found.seconds, 3), **rejected, **found.evaluations.as_dict()}
