"""Synthesis: from labels and seeds to hard images, accepted or rejected, with everything a record of them needs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from hard_aug.generative.nfe import NFE
from hard_aug.synthesis.acceptance import Acceptance, to_bytes
from hard_aug.synthesis.base import ImageSearch, describe_images
from hard_aug.synthesis.score import Score
from hard_aug.utils.checks import check_integer, check_kinds


@dataclass(frozen=True, slots=True, repr=False)
class SynthesisBatch:
    """Hard images as they would be stored.

    Attributes:
        images: `(B, C, H, W)` uint8. Networks take `images.float() / 255`.
        labels: `(B,)`.
        soft_labels: `(B, K)`, the teacher's probabilities for exactly these images.
        seeds: `(B,)`.
        scores_before: `(B,)`, scores of the unguided images.
        scores_after: `(B,)`, scores of the images before rounding.
        accepted: `(B,)` bool.
        rejected: number of images that violate each rule, see `AcceptanceResult`.
        nfe: number of function evaluations of the search, without those for `scores_before` and the acceptance.
        seconds: wall-clock time of everything.

    Example:
        >>> batch = SynthesisBatch(
        ...     images=torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
        ...     labels=torch.tensor([0, 2]),
        ...     soft_labels=torch.full((2, 3), 1 / 3),
        ...     seeds=torch.arange(2),
        ...     scores_before=torch.zeros(2),
        ...     scores_after=torch.ones(2),
        ...     accepted=torch.tensor([True, False]),
        ...     rejected={"teacher": 1},
        ...     nfe=NFE(denoiser_forward=20),
        ...     seconds=0.1,
        ... )
        >>> batch.images[batch.accepted].shape, batch.nfe.total
        (torch.Size([1, 1, 8, 8]), 20)
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor
    seeds: Tensor
    scores_before: Tensor
    scores_after: Tensor
    accepted: Tensor
    rejected: dict[str, int]
    nfe: NFE
    seconds: float

    def __repr__(self) -> str:
        images = describe_images(self.images, self.scores_before, self.scores_after)
        return f"SynthesisBatch({images}, accepted {int(self.accepted.sum())}, rejected={self.rejected})"


def synthesize(
    search: ImageSearch,
    score: Score,
    acceptance: Acceptance,
    labels: Tensor | None,
    *,
    seeds: Tensor,
    images: Tensor | None = None,
    classes: int | None = None,
    batch_size: int = 64,
) -> SynthesisBatch:
    """Generate one hard image for each seed, in batches whose size does not affect the result.

    Args:
        search: method that finds the images.
        score: the score to maximise.
        acceptance: decides which images are accepted.
        labels: `(B,)` integers; None: the teacher's predictions for `images`.
        seeds: `(B,)` integers >= 0.
        images: `(B, C, H, W)` in [0, 1], real images to start from; None: start from noise.
        classes: number of classes K, see `ImageSearch.__call__`.
        batch_size: number of images at once; fewer need less memory.

    Raises:
        TypeError: `search`, `score` or `acceptance` is something else, such as a class or a function that makes one.
        ValueError: `batch_size` is below 1, lengths differ, or see `ImageSearch.__call__`.

    Example:
        >>> import diffusers
        >>> from torch import nn
        >>> from hard_aug.generative import ClassLabels, DiffusionModel, DiffusionSampler
        >>> from hard_aug.synthesis import GuidedSampler
        >>> unet = diffusers.UNet2DModel(
        ...     sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,) * 4, norm_num_groups=8
        ... )
        >>> search = GuidedSampler.mpgd(DiffusionSampler(DiffusionModel(unet, diffusers.DDIMScheduler()), steps=2))
        >>> teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2))
        >>> score, acceptance = Score(teacher=teacher, student=student), Acceptance(teacher)
        >>> batch = synthesize(search, score, acceptance, torch.arange(3), seeds=torch.arange(3), classes=3)
        >>> batch.images.shape, batch.images.dtype
        (torch.Size([3, 1, 8, 8]), torch.uint8)
    """
    check_kinds(search=(search, ImageSearch), score=(score, Score), acceptance=(acceptance, Acceptance))
    check_integer(batch_size=batch_size)
    for name, given in (("labels", labels), ("images", images)):
        if given is not None and len(given) != len(seeds):
            raise ValueError(f"{len(given)} {name} and {len(seeds)} seeds: expected one seed for each")
    parts = []
    for start in range(0, max(1, len(seeds)), batch_size):
        rows = slice(start, start + batch_size)
        real = None if images is None else images[rows]
        given = labels[rows] if labels is not None else None if real is None else score.predict(real)
        parts.append(_synthesize_batch(search, score, acceptance, given, seeds[rows], real, classes))
    return SynthesisBatch(
        images=torch.cat([part.images for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        soft_labels=torch.cat([part.soft_labels for part in parts]),
        seeds=torch.cat([part.seeds for part in parts]),
        scores_before=torch.cat([part.scores_before for part in parts]),
        scores_after=torch.cat([part.scores_after for part in parts]),
        accepted=torch.cat([part.accepted for part in parts]),
        rejected={rule: sum(part.rejected[rule] for part in parts) for rule in parts[0].rejected},
        nfe=sum((part.nfe for part in parts), NFE()),
        seconds=sum(part.seconds for part in parts),
    )


def _synthesize_batch(
    search: ImageSearch,
    score: Score,
    acceptance: Acceptance,
    labels: Tensor | None,
    seeds: Tensor,
    images: Tensor | None,
    classes: int | None,
) -> SynthesisBatch:
    started = time.perf_counter()
    if labels is None:
        raise ValueError("labels: expected (B,) integers; only with images= can the teacher's predictions replace them")
    found = search(score, labels, seeds=seeds, images=images, classes=classes)
    rounded = to_bytes(found.images)
    labels = labels.to(rounded.device)
    result = acceptance(rounded, labels)
    return SynthesisBatch(
        images=rounded,
        labels=labels,
        soft_labels=result.soft_labels,
        seeds=seeds,
        scores_before=found.scores_before,
        scores_after=found.scores_after,
        accepted=result.accepted,
        rejected=result.rejected(),
        nfe=found.nfe,
        seconds=time.perf_counter() - started,
    )
