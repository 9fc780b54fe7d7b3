"""Evaluation mode that leaves networks as they were, and access to the network inside wrappers."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization.observer import ObserverBase

#: The flag of fake quantisation that makes it update its statistics.
OBSERVES = "observer_enabled"


@dataclass(slots=True)
class _Held:
    """What was changed in a module, and the number of blocks that rely on it."""

    module: nn.Module
    restore: list[Callable[[], object]]
    blocks: int = 0


#: Modules that a block has changed, by id: threads may share a network, and the last one to leave it restores it.
_held: dict[int, _Held] = {}
_lock = threading.Lock()


@contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """Run `models` in evaluation mode for the duration of a block; nothing of it is left at exit.

    - Every submodule is in evaluation mode and gets its own flag back, so that a frozen BatchNorm inside a training
      network stays frozen.
    - Observers and fake quantisation update no statistics; the quantisation itself applies.
    - `DistributedDataParallel`, `DataParallel` and `torch.compile` wrappers, at any depth, run the network inside: the
      forward of a wrapper may wait for other processes.

    Several blocks, also of several threads, may hold the same modules. `requires_grad` of the parameters is not
    touched: gradients are taken with `torch.autograd.grad` with respect to other tensors, which neither requires nor
    changes the parameters' `.grad`.

    Args:
        models: The networks; modules without a flag `training`, such as frozen TorchScript, run as they are.

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
    modules = {id(module): module for model in models for module in model.modules()}
    entered: list[_Held] = []
    try:
        with _lock:
            for key, module in modules.items():
                held = _held.get(key)
                if held is None:
                    restore = _prepare(module)
                    if not restore:
                        continue
                    held = _held[key] = _Held(module, restore)
                held.blocks += 1
                entered.append(held)
        yield
    finally:
        with _lock:
            for held in entered:
                held.blocks -= 1
                if not held.blocks:
                    del _held[id(held.module)]
                    for undo in reversed(held.restore):
                        undo()


def _prepare(module: nn.Module) -> list[Callable[[], object]]:
    """Put one module in evaluation mode; return how to restore what that changes, which for most is nothing."""
    restore: list[Callable[[], object]] = []
    if getattr(module, "training", False):
        module.training = False
        restore.append(functools.partial(setattr, module, "training", True))
    kind: type = type(module)
    is_script, is_observer, _ = _kind_of(kind)
    if is_script:  # its forward and its buffers are not Python's
        return restore
    wrapped = _wrapped(module)
    if wrapped is not None:
        _replace(module.__dict__, "forward", wrapped, restore)
    elif is_observer:
        _replace(module.__dict__, "forward", _identity, restore)
    enabled = module._buffers.get(OBSERVES)
    if enabled is not None:
        # Another tensor in its place: a write into the flag could break a graph that has it.
        _replace(module._buffers, OBSERVES, _zero(enabled.device, enabled.dtype, tuple(enabled.shape)), restore)
    return restore


@functools.lru_cache(1024)
def _kind_of(kind: type) -> tuple[bool, bool, bool]:
    """Return whether modules of a class are TorchScript's, observers, or wrap a module; fast, as it is for each."""
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    return issubclass(kind, torch.jit.ScriptModule), issubclass(kind, ObserverBase), issubclass(kind, wrappers)


def _replace(attributes: dict[str, Any], name: str, value: object, restore: list[Callable[[], object]]) -> None:
    if name in attributes:
        restore.append(functools.partial(attributes.__setitem__, name, attributes[name]))
    else:
        restore.append(functools.partial(attributes.pop, name))  # the class's applies again
    attributes[name] = value


def _identity(values: Tensor) -> Tensor:
    return values


@functools.lru_cache
def _zero(device: torch.device, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Return a zero that is never written, always the same one: a CUDA graph stays valid as long as its tensors."""
    with torch.inference_mode(False):
        return torch.zeros(shape, dtype=dtype, device=device)


def _wrapped(module: nn.Module) -> nn.Module | None:
    """Return the module inside a wrapper, None if this is none."""
    kind: type = type(module)
    is_script, _, is_wrapper = _kind_of(kind)
    return None if is_script else module._modules.get("module" if is_wrapper else "_orig_mod")


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the network inside `DistributedDataParallel`, `DataParallel` and `torch.compile` wrappers.

    Wrappers deeper inside stay where they are; `eval_mode` runs the network inside them.
    """
    while (inside := _wrapped(model)) is not None:
        model = inside
    return model
