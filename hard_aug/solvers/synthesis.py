"""Synthesis: from labels and seeds to hard images that are kept or not, with all that a record of them needs."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from hard_aug.solvers.acceptance import Acceptance, to_bytes
from hard_aug.solvers.base import Solver
from hard_aug.solvers.counts import Evaluations
from hard_aug.solvers.score import Score


@dataclass(frozen=True, slots=True)
class SynthBatch:
    """Hard images as they would be stored.

    Attributes:
        images: `(B, C, H, W)` uint8.
        labels: `(B,)`.
        soft_labels: `(B, K)`, the teacher's probabilities of these very images.
        seeds: `(B,)`.
        scores_before, scores_after: `(B,)`, of the unguided image and of this one before rounding.
        accepted: `(B,)` bool.
        rejected: how many images broke each rule, see `Verdict`.
        evaluations: of the search, without `scores_before` and acceptance.
        seconds: of all of it.
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor
    seeds: Tensor
    scores_before: Tensor
    scores_after: Tensor
    accepted: Tensor
    rejected: dict[str, int]
    evaluations: Evaluations
    seconds: float


def synthesize(
    solver: Solver,
    score: Score,
    acceptance: Acceptance,
    labels: Tensor | None,
    *,
    seeds: Tensor,
    images: Tensor | None = None,
    classes: int | None = None,
    batch_size: int = 64,
) -> SynthBatch:
    """One hard image for each seed, in batches; the result does not depend on their size.

    Args:
        solver, score: how, and by what.
        acceptance: which are kept.
        labels: `(B,)`; None: the teacher's answers to `images`.
        seeds: `(B,)`.
        images: `(B, C, H, W)` in [0, 1], real ones to start from; None: from noise.
        classes: K, see `Solver.__call__`.
        batch_size: images at once; less takes less memory.

    Raises:
        ValueError: a batch size below 1, unequal numbers, or as the solver says.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: wanted at least 1")
    for name, given in (("labels", labels), ("images", images)):
        if given is not None and len(given) != len(seeds):
            raise ValueError(f"{len(given)} {name} and {len(seeds)} seeds: wanted one seed for each")
    parts = []
    for start in range(0, max(1, len(seeds)), batch_size):
        rows = slice(start, start + batch_size)
        real = None if images is None else images[rows]
        given = labels[rows] if labels is not None else None if real is None else score.answers(real)
        parts.append(_one(solver, score, acceptance, given, seeds[rows], real, classes))
    return SynthBatch(
        images=torch.cat([part.images for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        soft_labels=torch.cat([part.soft_labels for part in parts]),
        seeds=torch.cat([part.seeds for part in parts]),
        scores_before=torch.cat([part.scores_before for part in parts]),
        scores_after=torch.cat([part.scores_after for part in parts]),
        accepted=torch.cat([part.accepted for part in parts]),
        rejected={rule: sum(part.rejected[rule] for part in parts) for rule in parts[0].rejected},
        evaluations=sum((part.evaluations for part in parts), Evaluations()),
        seconds=sum(part.seconds for part in parts),
    )


def _one(
    solver: Solver,
    score: Score,
    acceptance: Acceptance,
    labels: Tensor | None,
    seeds: Tensor,
    images: Tensor | None,
    classes: int | None,
) -> SynthBatch:
    started = time.perf_counter()
    if labels is None:
        raise ValueError("labels: wanted (B,) integers; only with images can the teacher's answers stand for them")
    found = solver(score, labels, seeds=seeds, images=images, classes=classes)
    rounded = to_bytes(found.images)
    labels = labels.to(rounded.device)
    verdict = acceptance(rounded, labels)
    return SynthBatch(
        rounded,
        labels,
        verdict.soft_labels,
        seeds,
        found.scores_before,
        found.scores_after,
        verdict.accepted,
        verdict.rejected(),
        found.evaluations,
        time.perf_counter() - started,
    )
