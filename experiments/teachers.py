"""Trained teachers, kept by the hash of everything they depend on."""

from __future__ import annotations

import hashlib
import json
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

from experiments import checkpoint, processes
from experiments.data import Part, Splits
from experiments.stop import Stop
from experiments.training import Training

logger = logging.getLogger(__name__)


def cache_key(config: dict[str, Any]) -> str:
    """Hexadecimal digest of a configuration, the same for any order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def check_share(config: DictConfig) -> None:
    """Refuse a `teacher.fraction` that can't be.

    Raises:
        ValueError: a share outside (0, 1], or of data that are not shared out.
    """
    share = config.teacher.get("fraction")
    if share is None:
        return
    if not 0 < share <= 1:
        raise ValueError(f"teacher.fraction={share}: wanted a share of the training images in (0, 1], or null")
    if "fraction" not in config.data:
        raise ValueError(f"teacher.fraction={share}: these data have no data.fraction; wanted null")


def shown(config: DictConfig, splits: Splits, data: dict[str, Any]) -> tuple[Part, dict[str, Any]]:
    """What teachers are trained on, and the configuration of the data that it is of: `data`, but for the share."""
    share = config.teacher.get("fraction")
    if share is None or share == config.data.fraction:
        return splits.train, data
    others = {key: value for key, value in data.items() if key != "fraction"}
    train: Part = instantiate(config.data, fraction=share).train
    return train.to(splits.train.device), others if share == 1 else {**others, "fraction": share}


def obtain(
    build: Callable[[], nn.Module],
    train: Part,
    *,
    config: dict[str, Any],
    cache: Path,
    progress: Progress,
    steps: int,
    batch_size: int,
    learning_rate: float,
    views: Callable[[Tensor, torch.Generator], Tensor],
    seed: int,
    stop: Stop,
    every: int = 500,
) -> tuple[nn.Module, bool]:
    """A teacher trained on labels, from the cache if one of this configuration is there.

    Of several processes the first one trains it, and the others wait and load it: they share the cache's folder.

    Args:
        build: makes the untrained network.
        train: images and labels.
        config: all that the result depends on; its hash names the file.
        cache: folder of trained teachers.
        steps: of training; 0: the network is taken as it is built.
        views: what it is shown in place of a batch of images; draws from the generator, on the CPU.
        stop: asked after each step; then what is there is kept beside, and the same call goes on from it.
        every: steps after which that is kept as well, against a kill.

    Returns:
        The teacher in evaluation mode without gradients, and whether it came from the cache.

    Raises:
        KeyboardInterrupt: a stop was asked for.
        FileNotFoundError: a process that does not see the first one's cache.
    """
    path = cache / f"{cache_key(config)}.pt"
    torch.manual_seed(seed)
    device = train.device
    teacher = build().to(device)
    if steps == 0:
        return teacher.eval().requires_grad_(False), False
    if processes.rank() != 0:
        processes.until_done(lambda: stop.requested)
        if not path.is_file():
            raise FileNotFoundError(
                f"no {path} in process {processes.rank()}, though the first one has written it: all processes have to "
                "share that folder; give teacher_cache=<a shared folder>"
            )
    if path.is_file():
        if processes.rank() == 0:
            processes.done()
        teacher.load_state_dict(torch.load(path, map_location=device, weights_only=True)["model"])
        return teacher.eval().requires_grad_(False), True
    draws = torch.Generator().manual_seed(seed)
    training = Training(
        teacher,
        train,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        warmup=steps // 10,
        memory=f"lower teacher.batch_size={batch_size}",
    )

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(teacher(views(images, draws)), labels)

    partial = path.with_suffix(".partial")
    cache.mkdir(parents=True, exist_ok=True)
    if partial.is_file():
        state = torch.load(partial, map_location="cpu", weights_only=True)
        training.load_state_dict(state["training"])
        draws.set_state(state["draws"])
    bar = progress.add_task("teacher", total=steps, completed=training.step, note="")
    for loss in training.run(loss_of, lambda: None):
        progress.update(bar, completed=training.step)
        if training.step % 100 == 0:
            progress.update(bar, note=f"loss {float(loss):.3f}")
        stops = processes.agreed(stop.requested)
        if stops or (training.step % every == 0 and training.step < steps):
            _write(partial, {"training": training.state_dict(), "draws": draws.get_state()})
        if stops:
            raise KeyboardInterrupt
    _write(path, {"config": config, "model": teacher.state_dict()})
    partial.unlink(missing_ok=True)
    logger.info("teacher kept as %s", path)
    processes.done()
    return teacher.eval().requires_grad_(False), False


def _write(path: Path, state: dict[str, Any]) -> None:
    checkpoint.save(path, state, beside=path.with_suffix(f".{os.getpid()}.tmp"))  # runs may share a cache
