"""Trained networks that runs share, cached under the hash of every setting that they depend on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import nn

from experiments.training import checkpoint
from experiments.training.interrupts import Stop
from hard_aug.utils.hashing import cache_key

logger = logging.getLogger(__name__)


def cached(
    network: nn.Module,
    train: Callable[[nn.Module, Path], None],
    *,
    name: str,
    config: dict[str, Any],
    cache: Path,
    stop: Stop,
) -> bool:
    """Load trained weights into a network, or train it and keep them; whoever comes first trains, the others wait.

    Args:
        network: untrained; afterwards in evaluation mode and without gradients.
        train: trains the network in place, with a path for its checkpoint.
        name: of the network, for the log.
        config: every setting that the result depends on; its hash names the file.
        cache: folder that all processes and runs share.
        stop: checked while waiting for another process.

    Returns:
        Whether the weights came from the cache.

    Raises:
        KeyboardInterrupt: a stop was requested.
    """
    path = cache / f"{cache_key(config)}.pt"
    cache.mkdir(parents=True, exist_ok=True)
    lock, waiting = FileLock(path.with_suffix(".lock")), False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0 if not waiting else 1)
        except Timeout:
            if stop.requested:
                raise KeyboardInterrupt from None
            if not waiting:
                logger.info("%s: another process is training it; waiting for %s", name, path)
            waiting = True
    try:
        found = path.is_file()
        if found:
            device = next(network.parameters()).device
            network.load_state_dict(torch.load(path, map_location=device, weights_only=True)["model"])
        else:
            partial = path.with_suffix(".partial")
            train(network, partial)
            checkpoint.save(path, {"config": config, "model": network.state_dict()})
            partial.unlink(missing_ok=True)
            logger.info("%s saved as %s", name, path)
    finally:
        lock.release()
    network.eval().requires_grad_(False)
    return found
