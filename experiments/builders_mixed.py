"""How the student `mixed` is made: from a folder of generated images, or with a generator of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from experiments.hard_images import Mixed, Refresh, Replay
from experiments.jobs import Job, settled
from experiments.mixing import Mixing
from experiments.shards import HardImages, read

if TYPE_CHECKING:
    from experiments.experiment import Experiment


def mixed(experiment: Experiment, job: Job, student: nn.Module) -> Mixing:
    """Distillation with generated images among the real ones.

    Raises:
        ValueError: no images, and nothing to make them with.
    """
    settings, train = settled(experiment.config, job), experiment.splits.train
    refresh = Refresh(**settings.refresh)
    pool = Replay(capacity=settings.capacity, replay=settings.replay, seed=experiment.config.seed)
    generate = None
    if settings.folder is not None:
        store = read(Path(settings.folder))
        if store.classes != tuple(experiment.splits.classes):
            raise ValueError(
                f"{settings.folder} is of the classes {store.classes}, the data {experiment.splits.classes}"
            )
        pool.add(store.images)
    if settings.folder is None or refresh.every is not None or refresh.patience is not None:
        generate = _generator(experiment)
    current = experiment.state["current"]
    if settings.folder is None and generate is not None and (current is None or current["name"] != job.name):
        if experiment.chosen("kd") is None:
            raise ValueError("hard_images.folder=null: the first images are made against kd; students=[kd,mixed]")
        biased = experiment.student()
        biased.load_state_dict(experiment.finished("kd")["model"])
        pool.add(generate(biased.eval(), 0))
    batches = Mixed(
        train,
        pool,
        ratio=settings.ratio,
        batch_size=experiment.config.batch_size,
        classes=experiment.splits.classes,
        seed=experiment.config.seed,
    )
    return Mixing(
        experiment.teacher,
        student,
        batches,
        refresh=refresh,
        generate=generate,
        validation=experiment.splits.validation,  # in distribution: nothing is chosen by the test's shift
        temperature=job.value("temperature", experiment.config.temperature),
    )


def _generator(experiment: Experiment) -> Callable[[nn.Module, int], HardImages]:
    if "generation" not in experiment.config:
        raise ValueError(
            "hard images are made with the settings of the configuration `generate`: use --config-name generate, "
            "or give hard_images.folder=<folder>/images and no refresh"
        )
    from experiments.generator import Generator  # wants diffusers

    judge = experiment.other_teacher() if experiment.config.generation.judge else None
    generator = Generator(
        experiment.config,
        teacher=experiment.teacher,
        judge=judge,
        train=experiment.splits.train,
        classes=len(experiment.splits.classes),
    )
    count, size = int(experiment.config.generation.images), int(experiment.config.generation.batch_size)

    def generate(student: nn.Module, generation: int) -> HardImages:
        bar = experiment.progress.add_task(f"hard images {generation}", total=count, note="")
        parts = []
        for numbers in (generation * count + torch.arange(count)).split(size):
            parts.append(generator(student, numbers)[0])
            experiment.progress.update(bar, advance=len(numbers))
        return HardImages.cat(parts)

    return generate
