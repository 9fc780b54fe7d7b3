"""Write a data set of hard images: `python -m experiments.generate [search=...] [key=value ...]`.

Searches for images of every class on which a student is wrong and its teacher is confident, with any search of
`hard_aug.synthesis`. The student is that of a finished run (`student_from`), or trained in `student/` of the run's
folder, which then contains

| file | content |
|---|---|
| `images/` | the shards, `index.csv` and `index.json`; see `hard_aug.data.shards` |
| `sheets/` | a figure of each class |
| `failure_metrics.json` | metrics of how the search fails; see `hard_aug.synthesis.failure_metrics` |

A run that is stopped or killed at any time resumes with the same command: finished shards are kept, none is duplicated,
and every image depends on its own seed alone. `torchrun` or `accelerate launch --multi_gpu` (on CPUs too, with
`device=cpu`) splits the shards over processes.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from experiments.configuration.command import hydra_command
from experiments.configuration.devices import choose_device
from experiments.configuration.identity import resolved, run_identity
from experiments.generation.generator import HardImageGenerator, load_diffusion_model
from experiments.runs import student as students
from experiments.training import checkpoint, distributed
from experiments.training.allocator import keep_freed_memory
from experiments.training.files import write_json
from experiments.training.interrupts import Stop, defer_signals
from experiments.training.progress import Progress
from experiments.training.settings import TrainerSettings
from experiments.training.setup import Setup
from hard_aug.data import ShardIndex, ShardWriter, save_sheets
from hard_aug.generative import DiffusionModel
from hard_aug.utils.checks import check_integer

#: Settings of `generation` on which the images do not depend.
EXCLUDED = ("images", "batch_size", "sheet", "other_student_from")
#: Number of images whose failure metrics are computed.
MEASURED = 100


def images_identity(config: DictConfig, model: DiffusionModel, student: nn.Module) -> dict[str, Any]:
    """Return everything that the images depend on, without their number; the same path may hold other weights later."""
    codec = [] if model.codec is None else [model.codec.autoencoder]
    digests = {"models": checkpoint.digest(model.denoiser, *codec), "student": checkpoint.digest(student)}
    generation = {key: value for key, value in resolved(config.generation).items() if key not in EXCLUDED}
    return run_identity(config) | {"generation": generation, "search": resolved(config.search), "weights": digests}


def write_shards(
    generator: HardImageGenerator, student: nn.Module, writer: ShardWriter, progress: Progress, stop: Stop
) -> None:
    """Write this process's shards that are not done yet.

    Raises:
        KeyboardInterrupt: a stop was requested; finished shards are kept.
    """
    size = generator.settings.shard_size
    mine = range(distributed.rank(), generator.settings.images // size, distributed.world_size())
    missing = [index for index in mine if not writer.is_done(index)]
    done = len(mine) - len(missing)
    bar = progress.task("hard images", total=len(mine) * size, completed=done * size)
    for number, index in enumerate(missing, done + 1):
        if stop.requested:
            raise KeyboardInterrupt
        hard, cost = generator(student, index * size + torch.arange(size))
        writer.write(index, hard, extra=cost)
        kept = 100 * float(hard.accepted.float().mean())
        bar.update(number * size, note=f"{kept:.0f} % accepted, {1000 * cost['seconds'] / size:.0f} ms each")


def run(config: DictConfig, folder: Path, *, quiet: bool = False) -> ShardIndex | None:
    """Generate the data set in `folder`; return its index in the first process, None in the others.

    Raises:
        ValueError: a setting is out of range, or the models or the student do not fit the data.
        FileNotFoundError: there is no run `student_from`.
        KeyboardInterrupt: a stop was requested; the same call resumes.
    """
    settings = config.generation
    check_integer(**{f"generation.{name}": settings[name] for name in ("images", "shard_size", "batch_size", "sheet")})
    if settings.images % settings.shard_size:
        raise ValueError(
            f"generation.images={settings.images}: expected a multiple of generation.shard_size="
            f"{settings.shard_size}, so that the folder can grow later"
        )
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    splits = instantiate(config.data)
    model = load_diffusion_model(settings, splits)  # raises before any training if it does not fit
    if config.student_from is None:
        students.run(config, folder / "student", quiet=quiet)
    device = choose_device(config.device)
    with (
        distributed.distributed_training(TrainerSettings(), device) as accelerator,
        defer_signals() as stop,
        Progress(quiet=quiet or distributed.rank() != 0) as progress,
    ):
        if distributed.rank() == 0 and not config.resume:
            shutil.rmtree(folder / "images", ignore_errors=True)
        distributed.barrier()
        splits = splits.to(accelerator.device if distributed.world_size() > 1 else device)
        setup = Setup(config, splits, progress, stop)
        model, (teacher, _) = model.to(setup.device), setup.teacher()
        student = setup.trained_student(Path(config.student_from or folder / "student"))
        judge = setup.teacher(other=True)[0] if settings.judge else None
        generator = HardImageGenerator(model, config.search, settings, setup, teacher=teacher, judge=judge)
        identity = images_identity(config, model, student)
        writer = ShardWriter(folder / "images", identity=identity, classes=splits.classes, layout=settings.layout)
        write_shards(generator, student, writer, progress, stop)
        distributed.barrier()
        if distributed.rank() != 0:
            return None
        index, indices = writer.finish(), torch.arange(min(settings.images, MEASURED))
        other, hard = settings.other_student_from, generator(student, indices)[0]
        networks = {"judge": judge, "other_student": None if other is None else setup.trained_student(Path(other))}
        write_json(folder / "failure_metrics.json", generator.failure_metrics(student, indices, hard, **networks))
        save_sheets(folder / "images", folder / "sheets", most=settings.sheet)
    return index


@hydra_command("generate")
def main(config: DictConfig) -> None:
    """Run from the command line."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if (index := run(config, folder)) is not None:
        Console().print(index, f"{folder}/images, sheets", sep="\n", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
