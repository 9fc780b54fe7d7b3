"""The state guard: what a call into somebody's networks leaves behind is nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Put every submodule of `models` in evaluation mode, and each back as it was, also when something raises.

    Each submodule's own flag is restored, so a frozen BatchNorm inside a training network stays frozen; a module
    that is shared by two models is handled once. Parameters' `requires_grad` is left alone: gradients are taken with
    `torch.autograd.grad` of other tensors, which neither needs nor touches the parameters' `.grad`.
    """
    training = {module: module.training for model in models for module in model.modules()}
    try:
        _put(dict.fromkeys(training, False))
        yield
    finally:
        _put(training)


def _put(training: dict[nn.Module, bool]) -> None:
    """Set the flags that differ: setting an attribute of a module is slow, and most are as wanted."""
    for module, flag in training.items():
        if module.training != flag:
            module.training = flag


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside `DistributedDataParallel`, `DataParallel` and `torch.compile` wrappers."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]  # checked in the line above
        else:
            return model
