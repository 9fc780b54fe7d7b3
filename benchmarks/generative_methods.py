"""The methods whose cost is measured, by the names of their rows; `benchmarks.generative` says what each is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.generative_models import CLASSES, Parts
from hard_aug import HardAugmenter
from hard_aug.policies import Policy, Search
from hard_aug.solvers import BestOfN, Chain, GuidedSampler, NoiseOptimizer, PixelPGD, Score, Solver, Unguided
from hard_aug.transforms import Transform, VAELatent
from hard_aug.transforms.diffusion import Diffusion

STEPS, CANDIDATES, ASCENTS, RECURRENCE, STRENGTH, PARTS = 10, 8, 10, 2, 0.5, 4
Call = Callable[[], object]


@dataclass(frozen=True)
class Method:
    """A row: which it is compared with, and what makes its call."""

    group: str
    make: Callable[[Parts], Call]


def solved(
    solver: Callable[[Chain, Parts], Solver], *, steps: int = STEPS, checkpointing: bool = False
) -> Callable[[Parts], Call]:
    """Hard images from noise."""

    def make(parts: Parts) -> Call:
        made = solver(Chain(parts.diffuser(checkpointing=checkpointing), steps=steps), parts)
        score, seeds = Score(teacher=parts.teacher, student=parts.student), torch.arange(len(parts.images))
        return lambda: made(score, parts.labels, seeds=seeds, classes=CLASSES)

    return make


def noise(steps: int, *, last: int | None = None, checkpointing: bool = False) -> Callable[[Parts], Call]:
    """Noise optimisation through a chain."""
    return solved(
        lambda chain, parts: NoiseOptimizer(chain, iterations=parts.iterations, last=last),
        steps=steps,
        checkpointing=checkpointing,
    )


def augmented(parts: Parts, transform: Transform, policy: Policy | None) -> Call:
    """A call of an augmenter with one ascent, on new images each time: a transform knows the last ones."""
    augmenter = HardAugmenter(teacher=parts.teacher, student=parts.student, transform=transform, policy=policy)
    return lambda: augmenter(parts.images.clone(), parts.labels)


def vae_latent(*, checkpointing: bool, pieces: int = 1) -> Callable[[Parts], Call]:
    """Shifts of latent channels, of the default policy and schedule; a batch is decoded in so many pieces."""

    def make(parts: Parts) -> Call:
        size = max(1, len(parts.images) // pieces)
        return augmented(parts, VAELatent(parts.autoencoder, checkpointing=checkpointing, micro_batch=size), None)

    return make


def diffusion(*, checkpointing: bool) -> Callable[[Parts], Call]:
    """Edits of the noise of the real images, ascended one by one."""

    def make(parts: Parts) -> Call:
        transform = Diffusion(Chain(parts.diffuser(checkpointing=checkpointing), steps=STEPS, strength=STRENGTH))
        return augmented(parts, transform, Search(transform.spec, candidates=1, steps=1))

    return make


METHODS = {
    "unguided": Method("controls", solved(lambda chain, parts: Unguided(chain))),
    f"best-of-{CANDIDATES}": Method("controls", solved(lambda chain, parts: BestOfN(chain, count=CANDIDATES))),
    f"pgd-{ASCENTS}": Method("controls", solved(lambda chain, parts: PixelPGD(chain, steps=ASCENTS))),
    "mpgd": Method("guidance", solved(lambda chain, parts: GuidedSampler.mpgd(chain, measure_before=False))),
    "x0-classifier": Method(
        "guidance", solved(lambda chain, parts: GuidedSampler.classifier(chain, measure_before=False))
    ),
    f"tfg-recurrence-{RECURRENCE}": Method(
        "guidance",
        solved(lambda chain, parts: GuidedSampler(chain, mu=0.5, rho=0.5, recurrence=RECURRENCE, measure_before=False)),
    ),
    **{
        f"noise-{steps}{name}": Method(f"noise-{steps}", noise(steps, last=last, checkpointing=checkpointing))
        for steps in (4, STEPS)
        for name, last, checkpointing in (("", None, False), ("-checkpointing", None, True), ("-last-1", 1, False))
    },
    "vae-latent": Method("vae-latent", vae_latent(checkpointing=False)),
    "vae-latent-checkpointing": Method("vae-latent", vae_latent(checkpointing=True)),
    f"vae-latent-checkpointing-in-{PARTS}": Method("vae-latent", vae_latent(checkpointing=True, pieces=PARTS)),
    "diffusion": Method("diffusion", diffusion(checkpointing=False)),
    "diffusion-checkpointing": Method("diffusion", diffusion(checkpointing=True)),
}
