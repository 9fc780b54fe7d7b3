"""Build the training method `generated`: from a folder of generated images, or with an image generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig
from torch import nn

from experiments.configuration.students import StudentSpec, resolve_config
from experiments.methods.generated_images import Generate, GeneratedImages
from experiments.methods.mixed_batches import MixedBatches
from experiments.training import distributed as processes
from hard_aug.data import HardImages, Refresh, Replay, read_shards

if TYPE_CHECKING:
    from experiments.runs.experiment import Experiment

#: Number of images of a generation whose failure metrics are computed.
MEASURED = 100


def check_generated(experiment: Experiment, spec: StudentSpec) -> None:
    """Raise before any training if generated images or generative models do not match the data.

    Args:
        experiment: provides data and configuration.
        spec: the student's name and settings.

    Raises:
        ValueError: the error names what does not match.
    """
    settings = resolve_config(experiment.config, spec)
    if settings.folder is not None:
        _store(experiment, settings.folder)
    if _generates(settings):
        _check_configured(experiment)
        from experiments.generation.generator import load_diffusion_model  # requires diffusers

        load_diffusion_model(experiment.config, experiment.splits)


def _generates(settings: DictConfig) -> bool:
    refresh = settings.refresh
    return settings.folder is None or refresh.every is not None or refresh.patience is not None


def _store(experiment: Experiment, folder: str) -> HardImages:
    store = read_shards(folder)
    if store.classes != tuple(experiment.splits.classes):
        raise ValueError(
            f"{folder} has the classes {store.classes}, the data {experiment.splits.classes}: expected the same"
        )
    return store.images


def build_generated(experiment: Experiment, spec: StudentSpec, student: nn.Module) -> GeneratedImages:
    """Build distillation with generated images among the real ones.

    Args:
        experiment: provides teacher, data and configuration.
        spec: the student's name and settings.
        student: its network.

    Raises:
        ValueError: no images are given and none can be generated.
    """
    settings, train = resolve_config(experiment.config, spec), experiment.splits.train
    refresh = Refresh(**settings.refresh)
    pool = Replay(capacity=settings.capacity, old_fraction=settings.replay, seed=experiment.config.seed)
    if settings.folder is not None:
        pool.add(_store(experiment, settings.folder))
    generate = _generator(experiment) if _generates(settings) else None
    current, metrics = experiment.state["current"], {}
    if settings.folder is None and generate is not None and (current is None or current["name"] != spec.name):
        if experiment.best_spec("kd") is None:
            raise ValueError(
                "hard_images.folder=null: the first images are generated against kd; expected students=[kd,generated]"
            )
        biased = experiment.student()
        biased.load_state_dict(experiment.best_result("kd")["model"])
        images, metrics = generate(biased.eval(), 0)
        pool.add(images)
    batches = MixedBatches(
        train,
        pool,
        ratio=settings.ratio,
        batch_size=experiment.config.batch_size,
        classes=experiment.splits.classes,
        seed=experiment.config.seed,
    )
    method = GeneratedImages(
        experiment.teacher,
        student,
        batches,
        refresh=refresh,
        generate=generate,
        validation=experiment.splits.validation,  # in distribution: nothing is selected on the shifted test set
        temperature=spec.setting("temperature", experiment.config.temperature),
    )
    method.failure_metrics = metrics
    return method


def _check_configured(experiment: Experiment) -> None:
    if "generation" not in experiment.config:
        raise ValueError(
            "hard images are generated with the settings of the configuration `generate`: use --config-name generate, "
            "or set hard_images.folder=<folder>/images and no refresh"
        )


def _generator(experiment: Experiment) -> Generate:
    """Return a function that generates images with the work split over processes; all processes get the same images."""
    _check_configured(experiment)
    from experiments.generation.generator import HardImageGenerator, load_diffusion_model  # requires diffusers

    judge = experiment.other_teacher() if experiment.config.generation.judge else None
    generator = HardImageGenerator(
        experiment.config,
        load_diffusion_model(experiment.config, experiment.splits),
        teacher=experiment.teacher,
        judge=judge,
        train=experiment.splits.train,
        classes=len(experiment.splits.classes),
    )
    count, size = int(experiment.config.generation.images), int(experiment.config.generation.batch_size)

    def generate(student: nn.Module, generation: int) -> tuple[HardImages, dict[str, float]]:
        everything = generation * count + torch.arange(count)
        mine = everything[processes.rank() :: processes.world_size()]
        bar = experiment.progress.add_task(f"hard images {generation}", total=len(mine), note="")
        parts = []
        for numbers in mine.split(size):
            parts.append(generator(student, numbers)[0])
            experiment.progress.update(bar, advance=len(numbers))
        images = HardImages.cat([part for theirs in processes.all_gather(parts) for part in theirs])
        images = images[images.seeds.argsort()]  # the order of their indices
        first = slice(0, MEASURED)
        found = generator.failure_metrics(student, everything[first], hard=images[first])
        return images, processes.all_reduce_mean(found)

    return generate
