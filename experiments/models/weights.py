"""Networks of a configuration, and weights that are loaded into them."""

from __future__ import annotations

import inspect
import zipfile
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from hard_aug.models import Normalized
from hard_aug.utils.files import check_zip

#: Keys that hold the weights in checkpoints of trainers, and in `student.pt`.
CHECKPOINT_KEYS = ("model", "state_dict")
#: Characters of each line of torch's errors that are shown.
LINE = 200


def build_network(node: DictConfig, *, size: int, channels: int, classes: int, own_head: bool = False) -> nn.Module:
    """Instantiate the `_target_` of a network with those of `size`, `channels` and `classes` that its signature names.

    Two keys of the node are not passed on: `weights`, a file for `load_weights`, and `normalization`, `mean` and `std`
    for each channel that the network expects its input normalised with. With `own_head`, a network whose default is
    `classes=None` keeps its head. `size` is the height and width of the images, pixels.

    Raises:
        FileNotFoundError: there is no file of weights.
        ValueError: weights of another network.
    """
    settings: dict[str, Any] = OmegaConf.to_container(node, resolve=True)  # type: ignore[assignment]  # a mapping
    weights, normalization = settings.pop("weights", None), settings.pop("normalization", None)
    accepted = inspect.signature(get_class(node._target_)).parameters
    values = {"size": size, "channels": channels, "classes": classes}
    if own_head and "classes" in accepted and accepted["classes"].default is None:
        del values["classes"]
    given = {key: value for key, value in values.items() if key in accepted and settings.get(key) is None}
    network: nn.Module = instantiate(settings, **given)
    if not isinstance(network, nn.Module):
        raise ValueError(f"_target_={node._target_} makes a {type(network).__name__}; expected a torch.nn.Module")
    if normalization is not None and set(normalization) != {"mean", "std"}:
        raise ValueError(f"normalization={normalization}: expected {{mean: [...], std: [...]}}")
    if weights is not None:
        load_weights(network, weights)
    return network if normalization is None else Normalized(network, **normalization)


def get_class(path: str) -> Any:
    """Return the object of an import path.

    Raises:
        ValueError: there is none.
    """
    try:
        return get_object(path)
    except Exception as error:  # Hydra raises several kinds
        raise ValueError(f"_target_={path}: {' '.join(str(error).split())}") from error


def build_teacher(node: DictConfig, *, size: int, channels: int, classes: int) -> nn.Module:
    """Build the network of the node `teacher` with its `weights` and `normalization`; see `build_network`.

    A pretrained network that is not trained further keeps its own head.
    """
    keys = {"weights": node.get("weights"), "normalization": node.get("normalization")}
    model = OmegaConf.create({**OmegaConf.to_container(node.model, resolve=True), **keys})  # type: ignore[dict-item]
    own_head = node.steps == 0 and keys["weights"] is None
    return build_network(model, size=size, channels=channels, classes=classes, own_head=own_head)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load weights of a file: safetensors, a state dict, or a checkpoint with one under `model` or `state_dict`.

    Prefixes of wrappers that all names have in common, such as `module.`, are stripped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file has no weights, or those of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights={path}: no such file; expected a safetensors file or a torch state dict")
    try:
        model.load_state_dict(_stripped(_read(path), model.state_dict()))
    except RuntimeError as error:  # a line with all missing keys, one with all unexpected, one for each other shape
        problems = " ".join(shorten(line, LINE) for line in str(error).splitlines()[1:4])
        raise ValueError(f"weights={path} are not those of this {type(model).__name__}: {problems}") from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if zipfile.is_zipfile(path):  # not of torch before 1.6
            check_zip(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both raise many kinds for files of other formats
        reason = str(error).split(". ")[0].partition("\n")[0]
        raise ValueError(
            f"weights={path} can't be read ({type(error).__name__}: {reason}); "
            "expected a safetensors file, or torch.save(model.state_dict(), path)"
        ) from error
    for key in CHECKPOINT_KEYS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(
            f"weights={path} holds no state dict: expected tensors by name, at the top or under "
            f"{' or '.join(CHECKPOINT_KEYS)}"
        )
    return dict(found)


def _stripped(found: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = list(found)
    while not own.keys() & set(names):
        parts = [name.partition(".") for name in names]
        if len({first for first, _, _ in parts}) != 1 or not all(rest for _, _, rest in parts):
            return found
        names = [rest for _, _, rest in parts]
    return dict(zip(names, found.values(), strict=True))
