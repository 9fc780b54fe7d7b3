"""timm models by name: they take images in [0, 1] and normalise them as timm's configuration says."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from hard_aug.models.normalized import Normalized


def timm_model(
    name: str,
    *,
    pretrained: bool = False,
    classes: int | None = None,
    channels: int = 3,
    size: tuple[int, int] | None = None,
) -> Normalized:
    """Build a timm model for images in [0, 1].

    Args:
        name: Name as in `timm.list_models()`, for example "resnet18" or "vit_tiny_patch16_224".
        pretrained: Whether to load timm's weights, which timm downloads.
        classes: Number of classes; None: the model's own.
        channels: Number of image channels.
        size: `(h, w)` that images are resized to; None: the model's own size if it accepts no other, else no resizing.

    Returns:
        The model inside `Normalized`, with timm's mean and std.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If timm has no model of that name; the message lists similar names.

    Example:
        >>> import torch
        >>> from hard_aug.models import timm_model
        >>> model = timm_model("test_resnet", classes=10, channels=1).eval()
        >>> model(torch.rand(1, 1, 32, 32)).shape
        torch.Size([1, 10])
    """
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise ImportError("timm_model requires timm: pip install 'hard_aug[timm]'") from error
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), 5) or ["see timm.list_models()"]
        raise ValueError(f"timm knows no model {name!r}; similar: {', '.join(similar)}")
    heads = {} if classes is None else {"num_classes": classes}
    model = timm.create_model(name, pretrained=pretrained, in_chans=channels, **heads)
    expected = timm.data.resolve_model_data_config(model)
    mean, std = (for_channels(expected[key], channels) for key in ("mean", "std"))
    if size is None and model.pretrained_cfg.get("fixed_input_size", False):
        size = (expected["input_size"][1], expected["input_size"][2])
    return Normalized(model, mean, std, size=size)


def for_channels(values: tuple[float, ...], channels: int) -> list[float]:
    """Return one value per channel: `values` if their number matches, else their mean for every channel.

    For another number of channels timm sums the weights of its first layer, so the mean is the matching normalisation.

    Args:
        values: Mean or std per channel.
        channels: Number of image channels.
    """
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels
