"""Write a data set of hard images: `python -m experiments.generate [solver=...] [key=value ...]`.

Trains a teacher (or takes it from the cache) and a student by plain distillation (or takes it from a finished run), and
looks for images of every class on which the student is wrong and the teacher sure, by any solver of
`hard_aug.solvers`. The run's folder then holds

| in the folder | what it is |
|---|---|
| `images/` | the shards, `index.csv` and `index.json`; see `experiments.shards` |
| `sheets/` | a picture of each class |
| `detectors.json` | how the search fails, if it does; see `hard_aug.solvers.detectors` |
| `checkpoint.pt` | the student |

A run that is stopped or killed at any moment goes on with the same command: finished shards stay, none is doubled, and
every image depends on its own seed alone. `torchrun` or `accelerate launch --multi_gpu` (with `device=cpu` on CPUs too)
splits the shards over processes.
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

from experiments import checkpoint
from experiments.experiment import FREE, Experiment, identity
from experiments.generator import Generator, diffuser_for
from experiments.jobs import VALIDATION, Job
from experiments.memory import keep_freed_memory
from experiments.shards import Index, ShardWriter, sheets
from experiments.stop import Stop, graceful, told
from experiments.train import choose_device
from experiments.training import progress_bar
from hard_aug.solvers import Diffuser

logger = logging.getLogger(__name__)
#: Settings of `generation` that change how it is done and not what comes out.
FREE_GENERATION = ("batch_size", "sheet", "other_student")
#: Images that the detectors look at.
DETECTED = 100


def identity_of(config: DictConfig) -> dict[str, Any]:
    """All settings that the images depend on, but not how many there are."""
    found = checkpoint.identity(config, FREE)
    found["generation"] = {k: v for k, v in found["generation"].items() if k not in (*FREE_GENERATION, "images")}
    return found


def weights_of(diffuser: Diffuser, student: nn.Module) -> dict[str, str]:
    """Digests of the networks that the images are made by and against: a path may hold others later."""
    codec = [] if diffuser.codec is None else [diffuser.codec.autoencoder]
    return {"models": checkpoint.digest(diffuser.denoiser, *codec), "student": checkpoint.digest(student)}


def student_of(config: DictConfig, experiment: Experiment) -> nn.Module:
    """The student that the images are made against.

    Raises:
        FileNotFoundError, ValueError: a run that is not there, or has no such student.
    """
    student, name = experiment.student(), config.student_name
    if config.student_from is None:
        for job in experiment.jobs:
            experiment.train(job)
        finished = experiment.state["finished"]
    else:
        path = Path(config.student_from) / "checkpoint.pt"
        if not path.is_file():
            raise FileNotFoundError(f"no {path}: student_from wants the folder of a run of experiments.train")
        kept = torch.load(path, map_location="cpu", weights_only=True)
        finished, ours = kept["finished"], identity(config)
        for part in ("data", "student"):
            if kept["config"][part] != ours[part]:
                raise ValueError(f"student_from: {path} has {part}={kept['config'][part]}, here it is {ours[part]}")
    if not any(key == name or key.startswith(f"{name}/") for key in finished):
        raise ValueError(f"student_name={name}: that run has finished {', '.join(finished) or 'none'}")
    trials = [kept for key, kept in finished.items() if key.startswith(f"{name}/")]
    best = finished[name] if name in finished else max(trials, key=lambda kept: kept["metrics"][VALIDATION])
    student.load_state_dict(best["model"])
    return student.eval()


def other_student(config: DictConfig, experiment: Experiment) -> nn.Module:
    """A student that no image is made against: of the same way of teaching, and another seed."""
    name = config.student_name
    jobs = [job for job in experiment.jobs if job.row == name]
    return experiment.other_student(jobs[0] if jobs else Job(name, name, row=name))


def write(
    generator: Generator,
    student: nn.Module,
    writer: ShardWriter,
    *,
    images: int,
    shard_size: int,
    state: Any,
    stop: Stop,
) -> None:
    """Write this process's shards that are not done yet.

    Raises:
        KeyboardInterrupt: a stop was asked for; finished shards are kept.
    """
    mine = range(state.process_index, -(-images // shard_size), state.num_processes)
    if state.num_processes > 1:
        logger.info("process %d of %d: %d shards", state.process_index + 1, state.num_processes, len(mine))
    with progress_bar(quiet=not state.is_main_process) as progress:
        bar = progress.add_task("hard images", total=len(mine) * shard_size, note="")
        for index in mine:
            rows = range(index * shard_size, min(images, (index + 1) * shard_size))
            if not writer.done(index):
                if stop.requested:
                    raise KeyboardInterrupt
                hard, extra = generator(student, torch.tensor(rows))
                writer.write(index, hard, extra=extra)
                kept = float(hard.accepted.float().mean())
                progress.update(bar, note=f"{100 * kept:.0f} % kept, {1000 * extra['seconds'] / len(rows):.0f} ms each")
            progress.update(bar, advance=len(rows))


def run(config: DictConfig, folder: Path) -> Index | None:
    """Do the run; the index, in the first process."""
    settings = config.generation
    for name in ("images", "shard_size", "batch_size", "sheet"):
        if settings[name] < 1:
            raise ValueError(f"generation.{name}={settings[name]}: wanted a whole number of at least 1")
    if settings.images % settings.shard_size:
        raise ValueError(
            f"generation.images={settings.images}: wanted a multiple of generation.shard_size="
            f"{settings.shard_size}, so that the folder can grow later"
        )
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    device = choose_device(config.device)
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=1))  # others wait while the first one trains
    if not state.is_main_process:
        config.resume = True  # the first has started anew, if that is wanted
    device = state.device if config.device == "auto" else device
    splits = instantiate(config.data).to(device)
    diffuser = diffuser_for(config, splits)  # says what does not fit before anything is trained
    folder.mkdir(parents=True, exist_ok=True)
    if state.is_main_process and not config.resume:
        shutil.rmtree(folder / "images", ignore_errors=True)
    with graceful() as stop:
        with state.main_process_first(), progress_bar(quiet=not state.is_main_process) as progress:
            experiment = Experiment(config, splits, folder, progress, stop)
            student = student_of(config, experiment)
            judge = experiment.other_teacher() if settings.judge else None
            other = other_student(config, experiment) if settings.other_student else None
        generator = Generator(
            config, diffuser, teacher=experiment.teacher, judge=judge, train=splits.train, classes=len(splits.classes)
        )
        identity = identity_of(config) | {"weights": weights_of(diffuser, student)}
        writer = ShardWriter(folder / "images", identity=identity, classes=splits.classes, layout=settings.layout)
        write(
            generator, student, writer, images=settings.images, shard_size=settings.shard_size, state=state, stop=stop
        )
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    index = writer.finish()
    found = generator.detectors(student, torch.arange(min(settings.images, DETECTED)), other_student=other)
    (folder / "detectors.json").write_text(json.dumps(found, indent=1) + "\n")
    sheets(folder / "images", folder / "sheets", most=settings.sheet)
    return index


@hydra.main(version_base="1.3", config_path="conf", config_name="generate")
def main(config: DictConfig) -> None:
    """Hydra's entry."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    with told(folder, kept="finished shards are kept"):
        index = run(config, folder)
    if index is not None:
        Console().print(index, soft_wrap=True)
        Console().print(f"{folder}/images, sheets", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
