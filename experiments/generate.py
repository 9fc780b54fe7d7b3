"""Write a data set of hard images: `python -m experiments.generate [search=...] [key=value ...]`.

Trains a teacher (or loads it from the cache) and a student by plain distillation (or loads it from a finished run), and
searches for images of every class on which the student is wrong and the teacher is confident, with any search of
`hard_aug.synthesis`. The run's folder then contains

| file | content |
|---|---|
| `images/` | the shards, `index.csv` and `index.json`; see `hard_aug.data.shards` |
| `sheets/` | a figure of each class |
| `failure_metrics.json` | metrics of how the search fails; see `hard_aug.synthesis.failure_metrics` |
| `checkpoint.pt` | the student |

A run that is stopped or killed at any time resumes with the same command: finished shards are kept, none is duplicated,
and every image depends on its own seed alone. `torchrun` or `accelerate launch --multi_gpu` (on CPUs too, with
`device=cpu`) splits the shards over processes.
"""

from __future__ import annotations

import json
import logging
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import hydra
import torch
from accelerate import PartialState
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from experiments.configuration.run import EXCLUDED_KEYS, run_identity
from experiments.configuration.students import VALIDATION, StudentSpec
from experiments.generation.generator import HardImageGenerator, load_diffusion_model
from experiments.runs.experiment import Experiment
from experiments.train import choose_device
from experiments.training import checkpoint
from experiments.training.allocator import keep_freed_memory
from experiments.training.interrupts import Stop, defer_signals, exit_on_interrupt
from experiments.training.loop import progress_bar
from hard_aug.data import ShardIndex, ShardWriter, save_sheets
from hard_aug.generative import DiffusionModel
from hard_aug.utils.checks import check_integer

logger = logging.getLogger(__name__)
#: Settings of `generation` on which the images do not depend.
EXCLUDED_GENERATION_KEYS = ("batch_size", "sheet", "other_student")
#: Number of images whose failure metrics are computed.
MEASURED = 100


def images_identity(config: DictConfig) -> dict[str, Any]:
    """Return all settings that the images depend on, without their number."""
    found = checkpoint.config_identity(config, EXCLUDED_KEYS)
    excluded = (*EXCLUDED_GENERATION_KEYS, "images")
    found["generation"] = {k: v for k, v in found["generation"].items() if k not in excluded}
    return found


def weight_digests(model: DiffusionModel, student: nn.Module) -> dict[str, str]:
    """Return digests of the networks' weights: the same path may hold other weights later.

    Args:
        model: diffusion model that generates the images.
        student: student that they are searched against.
    """
    codec = [] if model.codec is None else [model.codec.autoencoder]
    return {"models": checkpoint.digest(model.denoiser, *codec), "student": checkpoint.digest(student)}


def make_student(config: DictConfig, experiment: Experiment) -> nn.Module:
    """Train or load the student that the images are searched against.

    Args:
        config: the composed configuration.
        experiment: trains the student if `student_from` is null.

    Raises:
        FileNotFoundError: the run of `student_from` does not exist.
        ValueError: the run has no such student, or other data or another network.
    """
    student, name = experiment.student(), config.student_name
    if config.student_from is None:
        for spec in experiment.specs:
            experiment.train(spec)
        finished = experiment.state["finished"]
    else:
        path = Path(config.student_from) / "checkpoint.pt"
        if not path.is_file():
            raise FileNotFoundError(f"no {path}: student_from requires the folder of a run of experiments.train")
        kept = torch.load(path, map_location="cpu", weights_only=True)
        finished, ours = kept["finished"], run_identity(config)
        for part in ("data", "student"):
            if kept["config"][part] != ours[part]:
                raise ValueError(f"student_from: {path} has {part}={kept['config'][part]}, here it is {ours[part]}")
    if not any(key == name or key.startswith(f"{name}/") for key in finished):
        raise ValueError(f"student_name={name}: the finished students of that run are {', '.join(finished) or 'none'}")
    trials = [kept for key, kept in finished.items() if key.startswith(f"{name}/")]
    best = finished[name] if name in finished else max(trials, key=lambda kept: kept["metrics"][VALIDATION])
    student.load_state_dict(best["model"])
    return student.eval()


def other_student(config: DictConfig, experiment: Experiment) -> nn.Module:
    """Return a student that no image is searched against: the same training method with another seed.

    Args:
        config: the composed configuration.
        experiment: trains the student.
    """
    name = config.student_name
    specs = [spec for spec in experiment.specs if spec.row == name]
    return experiment.other_student(specs[0] if specs else StudentSpec(name, name, row=name))


def write_shards(
    generator: HardImageGenerator,
    student: nn.Module,
    writer: ShardWriter,
    *,
    images: int,
    shard_size: int,
    state: Any,
    stop: Stop,
) -> None:
    """Write this process's shards that are not done yet.

    Args:
        generator: generates the images.
        student: student that they should be hard for.
        writer: writes the shards.
        images: number of images of all processes.
        shard_size: images per shard.
        state: this process and the number of processes, of accelerate.
        stop: checked before each shard.

    Raises:
        KeyboardInterrupt: a stop was requested; finished shards are kept.
    """
    mine = range(state.process_index, -(-images // shard_size), state.num_processes)
    if state.num_processes > 1:
        logger.info("process %d of %d: %d shards", state.process_index + 1, state.num_processes, len(mine))
    with progress_bar(quiet=not state.is_main_process) as progress:
        bar = progress.add_task("hard images", total=len(mine) * shard_size, note="")
        for index in mine:
            rows = range(index * shard_size, min(images, (index + 1) * shard_size))
            if not writer.is_done(index):
                if stop.requested:
                    raise KeyboardInterrupt
                hard, extra = generator(student, torch.tensor(rows))
                writer.write(index, hard, extra=extra)
                kept = float(hard.accepted.float().mean())
                progress.update(
                    bar, note=f"{100 * kept:.0f} % accepted, {1000 * extra['seconds'] / len(rows):.0f} ms each"
                )
            progress.update(bar, advance=len(rows))


def run(config: DictConfig, folder: Path) -> ShardIndex | None:
    """Generate the data set.

    Args:
        config: the composed configuration.
        folder: folder of the run.

    Returns:
        The index in the first process, None in the others.

    Raises:
        ValueError: a setting is out of range, or the models do not fit the data.
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
    device = choose_device(config.device)
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=1))  # the first one trains alone
    if not state.is_main_process:
        config.resume = True  # the first process has removed the old results if requested
    device = state.device if config.device == "auto" else device
    splits = instantiate(config.data).to(device)
    model = load_diffusion_model(config, splits)  # raises before any training if it does not fit
    folder.mkdir(parents=True, exist_ok=True)
    if state.is_main_process and not config.resume:
        shutil.rmtree(folder / "images", ignore_errors=True)
    with defer_signals() as stop:
        with state.main_process_first(), progress_bar(quiet=not state.is_main_process) as progress:
            experiment = Experiment(config, splits, folder, progress, stop)
            student = make_student(config, experiment)
            judge = experiment.other_teacher() if settings.judge else None
            other = other_student(config, experiment) if settings.other_student else None
        generator = HardImageGenerator(
            config, model, teacher=experiment.teacher, judge=judge, train=splits.train, classes=len(splits.classes)
        )
        identity = images_identity(config) | {"weights": weight_digests(model, student)}
        writer = ShardWriter(folder / "images", identity=identity, classes=splits.classes, layout=settings.layout)
        write_shards(
            generator, student, writer, images=settings.images, shard_size=settings.shard_size, state=state, stop=stop
        )
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    index = writer.finish()
    metrics = generator.failure_metrics(student, torch.arange(min(settings.images, MEASURED)), other_student=other)
    (folder / "failure_metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    save_sheets(folder / "images", folder / "sheets", most=settings.sheet)
    return index


@hydra.main(version_base="1.3", config_path="conf", config_name="generate")
def main(config: DictConfig) -> None:
    """Run from the command line."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    with exit_on_interrupt(folder, saved="finished shards are saved"):
        index = run(config, folder)
    if index is not None:
        Console().print(index, soft_wrap=True)
        Console().print(f"{folder}/images, sheets", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
