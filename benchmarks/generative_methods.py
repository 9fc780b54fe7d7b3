"""Methods whose cost is measured, by the names of their rows; `benchmarks.generative` describes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.generative_models import CLASSES, Parts
from hard_aug import HardAugmenter
from hard_aug.generative import DiffusionSampler
from hard_aug.policies import Policy, Search
from hard_aug.schedules import Alternating
from hard_aug.synthesis import BestOfN, GuidedSampler, ImageSearch, NoiseOptimizer, PixelPGD, Score, Unguided
from hard_aug.transforms import Transform, VAELatent
from hard_aug.transforms.diffusion_noise import Diffusion

STEPS, CANDIDATES, ASCENTS, RECURRENCE, STRENGTH, PARTS = 10, 8, 10, 2, 0.5, 4
Call = Callable[[], object]


@dataclass(frozen=True)
class Method:
    """A row: the group in which it is compared, and a function that makes its call."""

    group: str
    make: Callable[[Parts], Call]


def searched(
    search: Callable[[DiffusionSampler, Parts], ImageSearch], *, steps: int = STEPS, checkpointing: bool = False
) -> Callable[[Parts], Call]:
    """Generate hard images from noise."""

    def make(parts: Parts) -> Call:
        made = search(DiffusionSampler(parts.diffusion_model(checkpointing=checkpointing), steps=steps), parts)
        score, seeds = Score(teacher=parts.teacher, student=parts.student), torch.arange(len(parts.images))
        return lambda: made(score, parts.labels, seeds=seeds, classes=CLASSES)

    return make


def noise(steps: int, *, backprop_steps: int | None = None, checkpointing: bool = False) -> Callable[[Parts], Call]:
    """Optimise the initial noise."""
    return searched(
        lambda sampler, parts: NoiseOptimizer(sampler, iterations=parts.iterations, backprop_steps=backprop_steps),
        steps=steps,
        checkpointing=checkpointing,
    )


def augmented(parts: Parts, transform: Transform, policy: Policy | None) -> Call:
    """Return a call of an augmenter with one policy update, on new tensors each time, since transforms cache them."""
    augmenter = HardAugmenter(
        teacher=parts.teacher, student=parts.student, transform=transform, policy=policy, schedule=Alternating()
    )
    return lambda: augmenter(parts.images.clone(), parts.labels)


def vae_latent(*, checkpointing: bool, pieces: int = 1) -> Callable[[Parts], Call]:
    """Shift latent channels, with the default policy; a batch is decoded in `pieces` micro-batches."""

    def make(parts: Parts) -> Call:
        size = max(1, len(parts.images) // pieces)
        return augmented(parts, VAELatent(parts.autoencoder, checkpointing=checkpointing, micro_batch=size), None)

    return make


def diffusion(*, checkpointing: bool) -> Callable[[Parts], Call]:
    """Edit the noise of the real images, optimised for each image."""

    def make(parts: Parts) -> Call:
        transform = Diffusion(
            DiffusionSampler(parts.diffusion_model(checkpointing=checkpointing), steps=STEPS, strength=STRENGTH)
        )
        return augmented(parts, transform, Search(transform.spec, candidates=1, steps=1))

    return make


METHODS = {
    "unguided": Method("baselines", searched(lambda sampler, parts: Unguided(sampler))),
    f"best-of-{CANDIDATES}": Method("baselines", searched(lambda sampler, parts: BestOfN(sampler, count=CANDIDATES))),
    f"pgd-{ASCENTS}": Method("baselines", searched(lambda sampler, parts: PixelPGD(sampler, steps=ASCENTS))),
    "mpgd": Method("guidance", searched(lambda sampler, parts: GuidedSampler.mpgd(sampler, measure_before=False))),
    "x0-classifier": Method(
        "guidance", searched(lambda sampler, parts: GuidedSampler.classifier(sampler, measure_before=False))
    ),
    f"tfg-recurrence-{RECURRENCE}": Method(
        "guidance",
        searched(
            lambda sampler, parts: GuidedSampler(sampler, mu=0.5, rho=0.5, recurrence=RECURRENCE, measure_before=False)
        ),
    ),
    **{
        f"noise-{steps}{name}": Method(
            f"noise-{steps}", noise(steps, backprop_steps=backprop_steps, checkpointing=checkpointing)
        )
        for steps in (4, STEPS)
        for name, backprop_steps, checkpointing in (
            ("", None, False),
            ("-checkpointing", None, True),
            ("-last-1", 1, False),
        )
    },
    "vae-latent": Method("vae-latent", vae_latent(checkpointing=False)),
    "vae-latent-checkpointing": Method("vae-latent", vae_latent(checkpointing=True)),
    f"vae-latent-checkpointing-in-{PARTS}": Method("vae-latent", vae_latent(checkpointing=True, pieces=PARTS)),
    "diffusion": Method("diffusion", diffusion(checkpointing=False)),
    "diffusion-checkpointing": Method("diffusion", diffusion(checkpointing=True)),
}
