"""Generator: hard images against a student, from the `generation` part of a configuration."""

from __future__ import annotations

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.data import Part
from experiments.evaluation import finite
from experiments.shards import HardImages
from experiments.shipped import SHIPPED
from hard_aug.solvers import Acceptance, Chain, Diffuser, Score, Solver, Unguided, detect, synthesize


class Generator:
    """Any solver of `hard_aug.solvers` with its networks.

    Args:
        config: with `generation`, `solver` and `seed`.
        teacher: whose answer is kept.
        judge: a network outside the search that has to agree; None: none.
        train: real images to start from, where the chain does not start from noise.
        classes: K.
    """

    def __init__(
        self, config: DictConfig, *, teacher: nn.Module, judge: nn.Module | None, train: Part, classes: int
    ) -> None:
        self.settings, self.seed, self.train, self.classes = config.generation, int(config.seed), train, classes
        self.teacher, self.device = teacher, train.images.device
        models = self.settings.models or SHIPPED
        diffuser = Diffuser.from_pretrained(models, guidance_scale=self.settings.guidance_scale).to(self.device)
        self.chain = Chain(diffuser, steps=self.settings.steps, strength=self.settings.strength)
        self.solver: Solver = instantiate(config.solver)(self.chain)
        self.acceptance = Acceptance(teacher, judge=judge, **self.settings.acceptance)

    def detectors(self, student: nn.Module, *, judge: nn.Module | None, numbers: Tensor) -> dict[str, float]:
        """How the images of these numbers fail, if they do, beside unguided ones of the same seeds."""
        guided, _ = self(student, numbers)
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
            judge=judge,
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
            images, labels = self.train.images[source.to(self.device)], self.train.labels[source.to(self.device)].cpu()
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
