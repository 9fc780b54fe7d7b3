"""How the student `mixed` is made: from a folder of generated images, or with a generator of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig
from torch import nn

from experiments import processes
from experiments.hard_images import Mixed, Refresh, Replay
from experiments.jobs import Job, settled
from experiments.mixing import Generate, Mixing
from experiments.shards import HardImages, read

if TYPE_CHECKING:
    from experiments.experiment import Experiment

#: Images of a generation that the detectors look at.
DETECTED = 100


def check(experiment: Experiment, job: Job) -> None:
    """Refuse, before hours of training, images and models that do not fit the data.

    Raises:
        ValueError: names what does not fit.
    """
    settings = settled(experiment.config, job)
    if settings.folder is not None:
        _store(experiment, settings.folder)
    if _generates(settings):
        _check_configured(experiment)
        from experiments.generator import diffuser_for  # wants diffusers

        diffuser_for(experiment.config, experiment.splits)


def _generates(settings: DictConfig) -> bool:
    refresh = settings.refresh
    return settings.folder is None or refresh.every is not None or refresh.patience is not None


def _store(experiment: Experiment, folder: str) -> HardImages:
    store = read(Path(folder))
    if store.classes != tuple(experiment.splits.classes):
        raise ValueError(f"{folder} is of the classes {store.classes}, the data {experiment.splits.classes}")
    return store.images


def mixed(experiment: Experiment, job: Job, student: nn.Module) -> Mixing:
    """Distillation with generated images among the real ones.

    Raises:
        ValueError: no images, and nothing to make them with.
    """
    settings, train = settled(experiment.config, job), experiment.splits.train
    refresh = Refresh(**settings.refresh)
    pool = Replay(capacity=settings.capacity, replay=settings.replay, seed=experiment.config.seed)
    if settings.folder is not None:
        pool.add(_store(experiment, settings.folder))
    generate = _generator(experiment) if _generates(settings) else None
    current, detected = experiment.state["current"], {}
    if settings.folder is None and generate is not None and (current is None or current["name"] != job.name):
        if experiment.chosen("kd") is None:
            raise ValueError("hard_images.folder=null: the first images are made against kd; students=[kd,mixed]")
        biased = experiment.student()
        biased.load_state_dict(experiment.finished("kd")["model"])
        images, detected = generate(biased.eval(), 0)
        pool.add(images)
    batches = Mixed(
        train,
        pool,
        ratio=settings.ratio,
        batch_size=experiment.config.batch_size,
        classes=experiment.splits.classes,
        seed=experiment.config.seed,
    )
    method = Mixing(
        experiment.teacher,
        student,
        batches,
        refresh=refresh,
        generate=generate,
        validation=experiment.splits.validation,  # in distribution: nothing is chosen by the test's shift
        temperature=job.value("temperature", experiment.config.temperature),
    )
    method.detected = detected
    return method


def _check_configured(experiment: Experiment) -> None:
    if "generation" not in experiment.config:
        raise ValueError(
            "hard images are made with the settings of the configuration `generate`: use --config-name generate, "
            "or give hard_images.folder=<folder>/images and no refresh"
        )


def _generator(experiment: Experiment) -> Generate:
    """Makes a generation, each of several processes a share of it, so that all have the same images."""
    _check_configured(experiment)
    from experiments.generator import Generator, diffuser_for  # wants diffusers

    judge = experiment.other_teacher() if experiment.config.generation.judge else None
    generator = Generator(
        experiment.config,
        diffuser_for(experiment.config, experiment.splits),
        teacher=experiment.teacher,
        judge=judge,
        train=experiment.splits.train,
        classes=len(experiment.splits.classes),
    )
    count, size = int(experiment.config.generation.images), int(experiment.config.generation.batch_size)

    def generate(student: nn.Module, generation: int) -> tuple[HardImages, dict[str, float]]:
        everything = generation * count + torch.arange(count)
        mine = everything[processes.rank() :: processes.count()]
        bar = experiment.progress.add_task(f"hard images {generation}", total=len(mine), note="")
        parts = []
        for numbers in mine.split(size):
            parts.append(generator(student, numbers)[0])
            experiment.progress.update(bar, advance=len(numbers))
        images = HardImages.cat([part for theirs in processes.gathered(parts) for part in theirs])
        images = images[images.seeds.argsort()]  # which is the order of their numbers
        first = slice(0, DETECTED)
        found = generator.detectors(student, everything[first], guided=images[first])
        return images, processes.mean(found)

    return generate
