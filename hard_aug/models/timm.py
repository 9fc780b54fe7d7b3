"""timm's networks by name, as players: they take images in [0, 1] and normalise them as timm's configuration says."""

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
    """Build one of timm's networks for images in [0, 1].

    Args:
        name: as `timm.list_models()` has it, for example "resnet18" or "vit_tiny_patch16_224".
        pretrained: with timm's weights, which it downloads.
        classes: of the head; None: the network's own.
        channels: of the images.
        size: `(h, w)` that images are resized to; None: the network's own if it takes no other, else as they come.

    Raises:
        ImportError: timm is not installed.
        ValueError: a name that timm does not know; lists similar ones.
    """
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise ImportError("timm_model wants timm: pip install 'hard_aug[timm]'") from error
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), 5) or ["timm.list_models() has all"]
        raise ValueError(f"timm knows no model {name!r}; similar: {', '.join(similar)}")
    heads = {} if classes is None else {"num_classes": classes}
    model = timm.create_model(name, pretrained=pretrained, in_chans=channels, **heads)
    wanted = timm.data.resolve_model_data_config(model)
    mean, std = (for_channels(wanted[key], channels) for key in ("mean", "std"))
    if size is None and model.pretrained_cfg.get("fixed_input_size", False):
        size = (wanted["input_size"][1], wanted["input_size"][2])
    return Normalized(model, mean, std, size=size)


def for_channels(values: tuple[float, ...], channels: int) -> list[float]:
    """Values per channel: as they are if the number fits, else their mean, as timm sums its first layer's weights."""
    if len(values) == channels:
        return list(values)
    return [sum(values) / len(values)] * channels
