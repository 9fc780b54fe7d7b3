"""What went wrong in a network's forward, in words: torch's own messages speak of convolutions and matrices."""

from __future__ import annotations

import warnings
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hard_aug.utils.checks import looks_channels_last


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class."""
    return (str(error) or type(error).__name__).splitlines()[0]


def device_of(module: nn.Module) -> torch.device | None:
    """Return the device of the first parameter or buffer, None if the module has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return None


def normalizes_itself(module: nn.Module) -> bool:
    """Return whether some submodule is a `Normalized`, or the `Normalize` of torchvision or kornia."""
    return any(_is_normalization(one) for one in module.modules())


def _is_normalization(module: nn.Module) -> bool:
    kind = type(module)
    # TorchScript knows the class of the module that it was made of by name only.
    name = getattr(module, "original_name", None) or kind.__name__
    libraries = ("hard_aug.", "torchvision.", "kornia.", "torch.jit.")
    return name in ("Normalized", "Normalize") and kind.__module__.startswith(libraries)


def explain_failure(module: nn.Module, images: Tensor, *, name: str) -> str | None:
    """Return what about the images does not fit the network, None if nothing obvious.

    Args:
        module: Whose forward has failed.
        images: `(B, C, H, W)`, what it was called with.
        name: Of the network.
    """
    shape = tuple(images.shape)
    if len(shape) != 4:
        return None
    device, dtype, channels = device_of(module), _dtype_of(module), _channels_of(module)
    if device is not None and device.type != images.device.type:
        return f"the {name} is on {device} and the images are on {images.device}; use images.to('{device}')"
    if looks_channels_last(shape, channels):
        return f"the {name} failed on images {shape}: they look like channels last; use images.permute(0, 3, 1, 2)"
    if channels is not None and shape[1] != channels:
        use = {
            (1, 3): "images.expand(-1, 3, -1, -1)",
            (3, 1): "images.mean(1, keepdim=True)",
            (4, 3): "images[:, :3], without the transparency",
        }.get((shape[1], channels), f"a network for {shape[1]} channels")
        return f"the {name} failed on images {shape}: it takes {channels} channels, and they have {shape[1]}; use {use}"
    cast = torch.is_autocast_enabled(images.device.type) and images.dtype != torch.float64
    if dtype not in (None, images.dtype) and not cast:
        return (
            f"the {name} failed on images of {images.dtype}: its weights are {dtype}; use images.to({dtype}), or cast "
            "in its forward (where both networks need different dtypes), or torch.autocast"
        )
    values, features = images.shape[1:].numel(), None if channels is not None else _features_of(module)
    if features is not None and values != features:
        return (
            f"the {name} failed on images {shape}: its first layer takes {features} values of an image, and they have "
            f"{values}; resize the images, or use a network for their size"
        )
    if not len(images):
        return f"the {name} failed on an empty batch; leave it out (drop_last=True)"
    if len(images) == 1 and any(_needs_statistics(one) for one in module.modules()):
        return (
            f"the {name} failed on a single image, of which its BatchNorm has no statistics (and no running ones, with "
            "track_running_stats=False); use larger batches, or larger fractions of them (hard_fraction=, and the "
            "schedule's fraction=)"
        )
    return None


def _needs_statistics(module: nn.Module) -> bool:
    """Return whether a module normalises by the statistics of the batch."""
    return isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)


def _dtype_of(module: nn.Module) -> torch.dtype | None:
    """Return the dtype of the first floating-point parameter."""
    return next((one.dtype for one in module.parameters() if one.is_floating_point()), None)


def _channels_of(module: nn.Module) -> int | None:
    """Return the number of channels of the first convolution or normalisation of images."""
    for one in module.modules():
        found: Any = one  # the attributes of any class, also of TorchScript's
        if _is_normalization(one):
            return len(found.mean)
        if isinstance(getattr(found, "in_channels", None), int) and hasattr(found, "kernel_size"):
            return found.in_channels  # type: ignore[no-any-return]  # checked in the line above
    return None


def _features_of(module: nn.Module) -> int | None:
    """Return the number of inputs of the first linear layer."""
    return next((one.in_features for one in module.modules() if isinstance(one, nn.Linear)), None)


def warn_of_probabilities(logits: Tensor, *, name: str) -> None:
    """Warn if what should be logits, `(B, K)`, is probabilities. Synchronises with the device."""
    sums = logits.sum(1, dtype=torch.float32)
    if bool((logits >= 0).all() & ((sums - 1).abs() < 1e-2).all()):
        warnings.warn(
            f"the {name} returns probabilities (no value is negative, and each row sums to 1): expected logits, of "
            "which the softmax is taken here; leave out its last softmax, or take the logarithm",
            stacklevel=2,
        )


def raise_for_logits(logits: Tensor, *, name: str) -> NoReturn:
    """Raise the `ValueError` for logits that are not finite.

    Args:
        logits: `(B, K)`.
        name: Of the network.
    """
    negative = int((logits == -torch.inf).sum())
    if negative == int((~logits.isfinite()).sum()):
        raise ValueError(
            f"the {name} returned {negative} logits of -inf (classes that are masked?), whose divergence is not "
            "defined; use -1e4 in their place, which leaves them the probability 0, or leave out these classes"
        )
    if logits.dtype in (torch.float16, torch.bfloat16):
        cause = f"it may overflow in {logits.dtype}; use .float(), or autocast to bfloat16"
    elif name == "student":
        cause = (
            "it may diverge (try a lower learning rate), or the running statistics of its BatchNorm may not fit yet "
            "(let it learn first, warmup_calls=100)"
        )
    else:
        cause = "its weights or its own normalisation are off"
    raise ValueError(f"the {name} returned NaN or infinite logits: {cause}; check {name}(images) on its own")
