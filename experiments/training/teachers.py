"""Trained networks that runs share, cached under the hash of every setting that they depend on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

    A file that is damaged, or of another network, is made again, with a warning.

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
        state = checkpoint.read_or_remove(path)
        if state is not None and not fits(state.get("model"), network):
            logger.warning("%s has weights of another network and is made again", path)
            state = None
        if state is not None:
            network.load_state_dict(state["model"])
        else:
            partial = path.with_suffix(".partial")
            checkpoint.read_or_remove(partial)
            train(network, partial)
            checkpoint.save(path, {"config": config, "model": network.state_dict()})
            partial.unlink(missing_ok=True)
            logger.info("%s saved as %s", name, path)
    finally:
        lock.release()
    network.eval().requires_grad_(False)
    return state is not None


def fits(weights: Any, network: nn.Module) -> bool:
    """Return whether weights are a network's; its code may have changed since they were saved."""
    own = network.state_dict()
    return isinstance(weights, dict) and {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in own.items()
    }
