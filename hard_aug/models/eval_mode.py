"""Evaluation mode that restores each submodule's own flag, and access to the network inside wrappers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """Put every submodule of `models` in evaluation mode, and restore each one's flag at exit, also after an exception.

    A frozen BatchNorm inside a training network therefore stays frozen. A module that two models share is handled once.
    `requires_grad` of the parameters is not touched: gradients are taken with `torch.autograd.grad` with respect to
    other tensors, which neither requires nor changes the parameters' `.grad`.

    Args:
        models: The networks.

    Example:
        >>> import torch
        >>> from hard_aug.models import eval_mode
        >>> model = torch.nn.Dropout()
        >>> with eval_mode(model):
        ...     print(model.training)
        False
        >>> model.training
        True
    """
    training = {module: module.training for model in models for module in model.modules()}
    try:
        _set_flags(dict.fromkeys(training, False))
        yield
    finally:
        _set_flags(training)


def _set_flags(training: dict[nn.Module, bool]) -> None:
    """Set the flags that differ: setting an attribute of a module is slow, and most flags are already right."""
    for module, flag in training.items():
        if module.training != flag:
            module.training = flag


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the network inside `DistributedDataParallel`, `DataParallel` and `torch.compile` wrappers."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]  # checked in the line above
        else:
            return model
