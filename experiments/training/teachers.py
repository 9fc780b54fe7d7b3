"""Trained teachers, cached under the hash of every setting that they depend on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import Progress
from torch import Tensor, nn

from experiments.training import checkpoint
from experiments.training import distributed as processes
from experiments.training.interrupts import Stop
from experiments.training.loop import Training
from hard_aug.data import ImageSet, Splits
from hard_aug.utils import checks
from hard_aug.utils.hashing import cache_key

logger = logging.getLogger(__name__)


def check_fraction(config: DictConfig) -> None:
    """Raise if `teacher.fraction` is invalid.

    Raises:
        ValueError: a fraction outside (0, 1], or data without `data.fraction`.
    """
    fraction = config.teacher.get("fraction")
    if fraction is None:
        return
    checks.check_fraction(**{"teacher.fraction": fraction})
    if "fraction" not in config.data:
        raise ValueError(f"teacher.fraction={fraction}: these data have no data.fraction; expected null")


def training_set(config: DictConfig, splits: Splits, data: dict[str, Any]) -> tuple[ImageSet, dict[str, Any]]:
    """Return the teacher's training images and the data configuration that describes them.

    Args:
        config: the composed configuration.
        splits: the students' data.
        data: the configuration of `splits`; the result differs from it in `fraction` alone.
    """
    fraction = config.teacher.get("fraction")
    if fraction is None or fraction == config.data.fraction:
        return splits.train, data
    others = {key: value for key, value in data.items() if key != "fraction"}
    train: ImageSet = instantiate(config.data, fraction=fraction).train
    return train.to(splits.train.device), others if fraction == 1 else {**others, "fraction": fraction}


def train_or_load(
    build: Callable[[], nn.Module],
    train: ImageSet,
    *,
    config: dict[str, Any],
    cache: Path,
    progress: Progress,
    steps: int,
    batch_size: int,
    learning_rate: float,
    augment: Callable[[Tensor, torch.Generator], Tensor],
    seed: int,
    stop: Stop,
    every: int = 500,
) -> tuple[nn.Module, bool]:
    """Return a teacher trained on labels, loaded from the cache if it holds one of this configuration.

    In a multi-process run rank 0 trains it while the others wait and then load it: they share the cache's folder.

    Args:
        build: makes the untrained network.
        train: images and labels.
        config: every setting that the result depends on; its hash names the file.
        cache: folder of trained teachers.
        progress: a running progress bar.
        steps: number of training steps; 0: the network is used as built.
        batch_size: images of each step.
        learning_rate: of Adam, at the start of the cosine decay.
        augment: maps a batch of images and a CPU generator to the views that the teacher is trained on.
        seed: of the initialisation, the order of the batches and the views.
        stop: checked after each step; on a stop the state is saved beside the cache file, and the same call resumes.
        every: steps between two saves of that state, against a kill.

    Returns:
        The teacher in evaluation mode without gradients, and whether it came from the cache.

    Raises:
        ValueError: a batch larger than the data set.
        KeyboardInterrupt: a stop was requested.
        FileNotFoundError: this process does not see the cache of rank 0.
    """
    path = cache / f"{cache_key(config)}.pt"
    torch.manual_seed(seed)
    device = train.device
    teacher = build().to(device)
    if steps == 0:
        return teacher.eval().requires_grad_(False), False
    if processes.rank() != 0:
        processes.wait_until_done(lambda: stop.requested)
        if not path.is_file():
            raise FileNotFoundError(
                f"process {processes.rank()} finds no {path}, which rank 0 has written: all processes must share that "
                "folder; set teacher_cache=<a shared folder>"
            )
    if path.is_file():
        if processes.rank() == 0:
            processes.signal_done()
        teacher.load_state_dict(torch.load(path, map_location=device, weights_only=True)["model"])
        return teacher.eval().requires_grad_(False), True
    if batch_size > len(train):
        raise ValueError(f"teacher.batch_size={batch_size}: expected 1 to {len(train)}, the number of training images")
    generator = torch.Generator().manual_seed(seed)
    training = Training(
        teacher,
        train,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        warmup=steps // 10,
        memory_advice=f"lower teacher.batch_size={batch_size}",
    )

    def loss_fn(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(teacher(augment(images, generator)), labels)

    partial = path.with_suffix(".partial")
    cache.mkdir(parents=True, exist_ok=True)
    if partial.is_file():
        state = torch.load(partial, map_location="cpu", weights_only=True)
        training.load_state_dict(state["training"])
        generator.set_state(state["generator"])
        logger.info("teacher: resuming from step %d of %d", training.step, steps)
    bar = progress.add_task("teacher", total=steps, completed=training.step, note="")
    for loss in training.run(loss_fn, lambda: None):
        progress.update(bar, completed=training.step)
        if training.step % 100 == 0:
            progress.update(bar, note=f"loss {float(loss):.3f}")
        stopped = processes.any_process(stop.requested)
        if stopped or (training.step % every == 0 and training.step < steps):
            _write(partial, {"training": training.state_dict(), "generator": generator.get_state()})
        if stopped:
            raise KeyboardInterrupt
    _write(path, {"config": config, "model": teacher.state_dict()})
    partial.unlink(missing_ok=True)
    logger.info("teacher saved as %s", path)
    processes.signal_done()
    return teacher.eval().requires_grad_(False), False


def _write(path: Path, state: dict[str, Any]) -> None:
    checkpoint.save(path, state, beside=path.with_suffix(f".{os.getpid()}.tmp"))  # runs may share a cache
