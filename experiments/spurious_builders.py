"""How each way of teaching of the spurious experiment is made, by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import nn

from experiments.baselines_mixing import CutMixed
from experiments.data import Part
from experiments.methods import Hard, Method, RandomViews
from experiments.spurious_methods import Pool
from experiments.spurious_pools import parsed
from hard_aug import HardAugmenter
from hard_aug.policies import Gaussian
from hard_aug.schedules import Alternating

if TYPE_CHECKING:
    from experiments.spurious import Experiment

#: Methods whose views are generated beforehand; those and `vae` go with generative models, `_all` or `_train`.
POOLED = ("unguided", "best_of_n", "best_of_n_away", "diffusion")


def check_methods(methods: Sequence[str]) -> None:
    """Refuse unknown ones, generative ones without models, and others with some.

    Raises:
        ValueError: names them.
    """
    for name in methods:
        kind, models = parsed(name)
        if kind not in BUILDERS:
            raise ValueError(f"methods: {name} unknown; wanted some of {', '.join(BUILDERS)}")
        generative = kind in (*POOLED, "vae", "vae_random")
        if generative != (models is not None):
            wanted = f"{kind}_all or {kind}_train" if generative else kind
            raise ValueError(f"methods: {name}; wanted {wanted}")


def _augmenter(experiment: Experiment, name: str, student: nn.Module) -> Method:
    transform, config = experiment.transform(name), experiment.config
    augmenter = HardAugmenter(
        teacher=experiment.teacher,
        student=student,
        transform=transform,
        policy=Gaussian(transform.spec),
        schedule=Alternating(every=config.every),
        uniform_floor=config.uniform_floor,
        seed=config.seed,
    )
    return Hard(augmenter, temperature=config.temperature)


def _random(experiment: Experiment, name: str, student: nn.Module) -> Method:
    config = experiment.config
    return RandomViews(
        experiment.teacher, student, experiment.transform(name), temperature=config.temperature, seed=config.seed
    )


def _pool(experiment: Experiment, name: str, student: nn.Module) -> Method:
    """Of no images yet; each round adds its own."""
    config, train = experiment.config, experiment.splits.train
    return Pool(experiment.teacher, student, train[slice(0, 0)], temperature=config.temperature, seed=config.seed)


def add_images(experiment: Experiment, name: str, method: Pool, turn: int) -> None:
    """Make the images of a round against the student as it is, and add those that are accepted.

    Raises:
        ValueError: there is none.
    """
    pool = experiment.pools.obtain(name, turn, method.student)
    kept = pool["accepted"]
    if not bool(kept.any()):
        raise ValueError(f"{name}: none of {len(kept)} images was accepted; lower generation.guidance")
    method.add(Part(pool["images"][kept].float() / 255, pool["labels"][kept]).to(experiment.device))


def _kd(experiment: Experiment, name: str, student: nn.Module) -> Method:
    """On as many images as the others: a second batch of clean ones stands where they have views."""
    config, train = experiment.config, experiment.splits.train
    return Pool(experiment.teacher, student, train, temperature=config.temperature, seed=config.seed + 1)


def _cutmix(experiment: Experiment, name: str, student: nn.Module) -> Method:
    config = experiment.config
    return CutMixed(experiment.teacher, student, temperature=config.temperature, seed=config.seed)


#: How a way of teaching is made, by its name without `_all` and `_train`.
BUILDERS: dict[str, Callable[[Experiment, str, nn.Module], Method]] = {
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
