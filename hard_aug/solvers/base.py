"""Solver: how hard images are found, with one signature for guidance, optimisation and the controls."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from hard_aug.checks import check_images, check_labels
from hard_aug.objectives import Reference
from hard_aug.solvers.chain import Chain, mixed_seed, noise_of
from hard_aug.solvers.counts import Evaluations
from hard_aug.solvers.diffuser import Diffuser
from hard_aug.solvers.score import Score, check_finite, check_scores


@dataclass(frozen=True, slots=True)
class Found:
    """What a solver found.

    Attributes:
        images: `(B, C, H, W)` float32 in [0, 1], not rounded.
        scores_before: `(B,)`, of what the method began with: the unguided image of the same seed.
        scores_after: `(B,)`, of `images`.
        evaluations: what it took, without what only `scores_before` needed.
        seconds: of wall-clock, with it.
    """

    images: Tensor
    scores_before: Tensor
    scores_after: Tensor
    evaluations: Evaluations
    seconds: float


@dataclass(slots=True)
class Task:
    """One call's input, checked, with the noise of each image.

    Attributes:
        labels: `(B,)`, what the denoiser is conditioned on.
        images: the real ones; None: from noise.
        clean: scaled latents of the real images `(B, c, h, w)`; None: from noise.
        noise: `(1 + steps, B, c, h, w)` where the chain renoises, else `(1, B, c, h, w)`; the first is what it starts
            with.
        reference: of the score.
        generators: of each image's random views.
    """

    labels: Tensor
    images: Tensor | None
    clean: Tensor | None
    noise: Tensor
    reference: Reference
    generators: list[torch.Generator]

    def rows(self, rows: Tensor) -> Task:
        """That of some of the images, by index."""
        picked = self.reference
        return Task(
            self.labels[rows],
            None if self.images is None else self.images[rows],
            None if self.clean is None else self.clean[rows],
            self.noise[:, rows],
            Reference(
                picked.teacher_logits[rows],
                None if picked.student_logits is None else picked.student_logits[rows],
                None if picked.labels is None else picked.labels[rows],
            ),
            [self.generators[int(row)] for row in rows],
        )


class Solver(ABC):
    """Finds hard images; a row's result depends on its own seed, label and image alone.

    Args:
        chain: of the denoiser.
    """

    #: Whether it looks at latents of the real images.
    encodes_images: bool = True

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    @property
    def diffuser(self) -> Diffuser:
        """The networks."""
        return self.chain.diffuser

    def __call__(
        self, score: Score, labels: Tensor, *, seeds: Tensor, images: Tensor | None = None, classes: int | None = None
    ) -> Found:
        """Find one hard image for each seed.

        Args:
            score: what is ascended.
            labels: `(B,)` integers, the class that each image is to show.
            seeds: `(B,)` integers of at least 0, of all randomness of each image.
            images: `(B, C, H, W)` in [0, 1], real ones to start from; None: from noise.
            classes: K; None: as many as the denoiser knows, wanted only where it knows none and there are no images.

        Raises:
            TypeError, ValueError: wrong shapes or values, labels outside the classes, or a chain that starts in the
                middle without images.
            FloatingPointError: images that are not finite, as of a network that overflows in float16, or scores that
                are NaN.
            RuntimeError: under `torch.inference_mode()`.
        """
        started = time.perf_counter()
        if labels is None:
            raise ValueError(
                "labels: wanted (B,) integers, got None; where neither denoiser nor score wants any: zeros"
            )
        check_labels(labels, batch=len(seeds))
        if torch.is_inference_mode_enabled():
            raise RuntimeError("a solver takes gradients: call it under torch.no_grad() or no context at all")
        self._check_values(labels)
        if images is not None:
            check_images(images)
            if len(images) != len(seeds):
                raise ValueError(f"{len(images)} images and {len(seeds)} seeds: wanted one seed for each image")
        device = self.diffuser.device
        labels = labels.to(device).long()
        if not len(seeds):  # which not every layer takes
            return self._nothing(images, started)
        before = self._count(score)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            task = self._task(score, labels, seeds, None if images is None else images.to(device).float(), classes)
        with torch.autocast(device.type, enabled=False):
            found, scores_before, extra = self.solve(score, task)
            check_finite(found)
            after = score.final(found, task.reference)
            check_scores(after)
        spent = self._count(score) - before - extra
        return Found(found, scores_before, after, spent, time.perf_counter() - started)

    def _check_values(self, labels: Tensor) -> None:
        known = getattr(self.diffuser.condition, "classes", None)
        if known is not None and len(labels):
            low, high = int(labels.min()), int(labels.max())
            if not 0 <= low <= high < known:
                raise ValueError(f"labels from {low} to {high}: wanted 0 to {known - 1}, which the denoiser knows")

    @abstractmethod
    def solve(self, score: Score, task: Task) -> tuple[Tensor, Tensor, Evaluations]:
        """Images `(B, C, H, W)`, the scores before `(B,)`, and what only these needed."""

    def _nothing(self, images: Tensor | None, started: float) -> Found:
        codec = self.diffuser.codec
        channels = int(self.diffuser.config.in_channels) if codec is None else codec.channels
        size = self.diffuser.image_size() if images is None else images.shape[-2:]
        scores = torch.zeros(0, device=self.diffuser.device)
        found = scores.view(0, 1, 1, 1).expand(0, channels, *size)
        return Found(found, scores, scores, Evaluations(), time.perf_counter() - started)

    def _task(self, score: Score, labels: Tensor, seeds: Tensor, images: Tensor | None, classes: int | None) -> Task:
        diffuser = self.diffuser
        size = diffuser.image_size() if images is None else (images.shape[-2], images.shape[-1])
        if classes is None:
            classes = getattr(diffuser.condition, "classes", None)
        shape = diffuser.latent_shape(*size)
        count = 1 + (len(self.chain) if self.chain.renoise else 0)
        noise = noise_of(seeds, (count, *shape), diffuser.device).movedim(1, 0)
        clean = None if images is None or not self.encodes_images else diffuser.encode(images)
        generators = [torch.Generator().manual_seed(mixed_seed(int(seed), 1)) for seed in seeds]
        return Task(labels, images, clean, noise, score.reference(images, labels, classes=classes), generators)

    @torch.no_grad()
    def plain(self, task: Task, *, noise: Tensor | None = None, preview: bool = False) -> Tensor:
        """Images of the chain without a search, `(B, C, H, W)`."""
        noise = task.noise if noise is None else noise
        latents = self.chain.run(self.chain.start(noise[0], task.clean), task.labels, fresh=noise[1:])
        return self.diffuser.decode(latents, preview=preview)

    def measured_before(self, score: Score, task: Task) -> tuple[Tensor, Evaluations]:
        """Scores of the unguided images, and what they took, which is not part of the method."""
        before = self._count(score)
        scores = score.final(self.plain(task), task.reference)
        return scores, self._count(score) - before

    def _count(self, score: Score) -> Evaluations:
        return self.diffuser.evaluations + score.evaluations
