"""Build the training methods of the spurious experiment by their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import nn

from experiments.methods.base import Hard, Method, RandomViews
from experiments.methods.mixup_cutmix import CutMixed
from experiments.spurious.pool_method import Pool
from experiments.spurious.pools import parse_name
from hard_aug import Exploration, HardAugmenter
from hard_aug.data import ImageSet
from hard_aug.policies import Gaussian
from hard_aug.schedules import Alternating

if TYPE_CHECKING:
    from experiments.spurious.experiment import SpuriousExperiment

#: Methods whose images are generated before each round; they and `vae` require generative models, `_all` or `_train`.
POOLED = ("unguided", "best_of_n", "best_of_n_away", "diffusion")


def check_methods(methods: Sequence[str]) -> None:
    """Raise for unknown methods, generative ones without a suffix for their models, and others with one.

    Raises:
        ValueError: the error names the method.
    """
    for name in methods:
        kind, models = parse_name(name)
        if kind not in BUILDERS:
            raise ValueError(f"methods: unknown method {name}; expected some of {', '.join(BUILDERS)}")
        generative = kind in (*POOLED, "vae", "vae_random")
        if generative != (models is not None):
            expected = f"{kind}_all or {kind}_train" if generative else kind
            raise ValueError(f"methods: got {name}; expected {expected}")


def _augmenter(experiment: SpuriousExperiment, name: str, student: nn.Module) -> Method:
    transform, config = experiment.transform(name), experiment.config
    augmenter = HardAugmenter(
        teacher=experiment.teacher,
        student=student,
        transform=transform,
        policy=Gaussian(transform.spec),
        schedule=Alternating(every=config.every),
        exploration=Exploration(min_uniform_fraction=config.min_uniform_fraction),
        seed=config.seed,
    )
    return Hard(augmenter, temperature=config.temperature)


def _random(experiment: SpuriousExperiment, name: str, student: nn.Module) -> Method:
    config = experiment.config
    return RandomViews(
        experiment.teacher, student, experiment.transform(name), temperature=config.temperature, seed=config.seed
    )


def _pool(experiment: SpuriousExperiment, name: str, student: nn.Module) -> Method:
    """Build a pool without images; each round adds its own."""
    config, train = experiment.config, experiment.splits.train
    return Pool(experiment.teacher, student, train[slice(0, 0)], temperature=config.temperature, seed=config.seed)


def add_images(experiment: SpuriousExperiment, name: str, method: Pool, turn: int) -> None:
    """Generate the images of a round against the current student, and add the accepted ones.

    Args:
        experiment: has the pools.
        name: name of the method.
        method: the pool that the images are added to.
        turn: the round, from 0.

    Raises:
        ValueError: no image was accepted.
    """
    pool = experiment.pools.generate_or_load(name, turn, method.student)
    kept = pool["accepted"]
    if not bool(kept.any()):
        raise ValueError(f"{name}: none of {len(kept)} images was accepted; lower generation.guidance")
    method.add(ImageSet(pool["images"][kept].float() / 255, pool["labels"][kept]).to(experiment.device))


def _kd(experiment: SpuriousExperiment, name: str, student: nn.Module) -> Method:
    """Build distillation on a second batch of clean images: as many images as the other methods use."""
    config, train = experiment.config, experiment.splits.train
    return Pool(experiment.teacher, student, train, temperature=config.temperature, seed=config.seed + 1)


def _cutmix(experiment: SpuriousExperiment, name: str, student: nn.Module) -> Method:
    config = experiment.config
    return CutMixed(experiment.teacher, student, temperature=config.temperature, seed=config.seed)


#: Builders of the methods, by name without `_all` and `_train`.
BUILDERS: dict[str, Callable[[SpuriousExperiment, str, nn.Module], Method]] = {
    "kd": _kd,
    "cutmix": _cutmix,
    "jitter": _random,
    "color": _augmenter,
    "vae_random": _random,
    "vae": _augmenter,
    "unguided": _pool,
    "best_of_n": _pool,
    "best_of_n_away": _pool,
    "diffusion": _pool,
}
