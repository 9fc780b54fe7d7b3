"""The file of a `LearnedAugmentation`: safetensors, with settings as JSON in its metadata. Reading it runs no code.

| key of the JSON | value |
|---|---|
| format | number of this format |
| transform, policy | class and settings, or what a `Compose` or `Narrowed` holds; of other classes the name only |
| spec | the transform's parameters, a list of fields each |
| p | probability that an image is augmented |
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from hard_aug.policies import Conditional, Gaussian, Generator, GroupBandit, Policy, Uniform
from hard_aug.transforms import (
    Affine,
    Color,
    Compose,
    Elastic,
    Filter,
    Menu,
    Narrowed,
    Operations,
    Parameter,
    PatchMix,
    Perspective,
    Transform,
)
from hard_aug.utils.files import write_bytes
from hard_aug.utils.settings_repr import settings_of

FORMAT = 2
SETTINGS, DIGEST = "hard_aug.LearnedAugmentation", "sha256"
#: Those that are described by their stages.
COMPOSED: dict[str, type[Compose]] = {kind.__name__: kind for kind in (Compose, Menu)}
#: Those that settings alone describe: others have networks, or code, that is not in a file.
TRANSFORMS: dict[str, type[Transform]] = {
    kind.__name__: kind for kind in (Affine, Color, Elastic, Filter, Operations, PatchMix, Perspective)
}
POLICIES: dict[str, type[Policy]] = {
    kind.__name__: kind for kind in (Conditional, Gaussian, Generator, GroupBandit, Uniform)
}


class Stored(NamedTuple):
    """What a file holds.

    Attributes:
        transform: as it was, or what was given in its place.
        policy: likewise, with the parameters that it is created with.
        p: probability that an image is augmented.
        tensors: the state dict.
    """

    transform: Transform
    policy: Policy
    p: float
    tensors: dict[str, Tensor]


def write(path: Path, *, transform: Transform, policy: Policy, p: float, tensors: dict[str, Tensor]) -> None:
    """Write a file, whole or not at all.

    Args:
        path: its folder exists.
        transform: of which the settings are kept.
        policy: of which the settings are kept.
        p: probability that an image is augmented.
        tensors: a state dict.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent}; create it first")
    settings = {
        "format": FORMAT,
        "transform": _describe(transform),
        "policy": _describe(policy),
        "spec": [astuple(parameter) for parameter in transform.spec],
        "p": p,
    }
    text = json.dumps(settings, default=_plain)
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {SETTINGS: text, DIGEST: _digest(text, tensors)}
    write_bytes(path, safetensors.torch.save(tensors, metadata))


def read(path: Path, *, transform: Transform | None = None, policy: Policy | None = None) -> Stored:
    """Read a file that `write` has written.

    Args:
        path: of the file.
        transform: in place of that of the file.
        policy: in place of that of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, of another kind or of a later version, or holds classes that have to be given.
    """
    settings, tensors = _contents(path)
    spec = tuple(Parameter(*fields) for fields in settings["spec"])
    if transform is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ranges in unusual units: said where the transform was made
            transform = _build_transform(settings["transform"], path)
    if policy is None:
        found = settings["policy"]
        if "settings" not in found or found["class"] not in POLICIES:
            raise ValueError(_unknown(path, found["class"], "policy"))
        policy = POLICIES[found["class"]](spec, **found["settings"])
    for name, part in (("transform", transform), ("policy", policy)):
        if part.spec != spec:
            raise ValueError(
                f"{path} was saved for other parameters or ranges ({_names(spec)}) than those of the {name} "
                f"({_names(part.spec)}); give load() the {name} that was saved"
            )
    return Stored(transform, policy, settings["p"], tensors)


def _describe(part: Transform | Policy) -> dict[str, Any]:
    kind = type(part)
    if isinstance(part, Compose) and kind in COMPOSED.values():
        return {"class": kind.__name__, "stages": [_describe(stage) for stage in part.stages]}
    if isinstance(part, Narrowed) and kind is Narrowed:
        return {"class": kind.__name__, "inner": _describe(part.inner), "ranges": dict(part.ranges)}
    if kind in (*TRANSFORMS.values(), *POLICIES.values()):
        return {"class": kind.__name__, "settings": settings_of(part, skip=("spec",))}
    return {"class": f"{kind.__module__}.{kind.__qualname__}"}


def _build_transform(description: dict[str, Any], path: Path) -> Transform:
    if "stages" in description and description["class"] in COMPOSED:
        return COMPOSED[description["class"]](*(_build_transform(stage, path) for stage in description["stages"]))
    if "inner" in description:
        return Narrowed(_build_transform(description["inner"], path), description["ranges"])
    if "settings" not in description or description["class"] not in TRANSFORMS:
        raise ValueError(_unknown(path, description["class"], "transform"))
    return TRANSFORMS[description["class"]](**description["settings"])


def _unknown(path: Path, name: str, part: str) -> str:
    return (
        f"{path} was saved with the {part} {name}, whose code and networks are not in the file; give it as it was: "
        f"LearnedAugmentation.load(path, {part}=...)"
    )


def _contents(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the settings and the tensors of a file, which are as they were written."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; LearnedAugmentation.save(path) writes one")
    data = path.read_bytes()
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header.get("__metadata__", {})
        settings = json.loads(metadata.get(SETTINGS, "{}"))
    except Exception as error:  # safetensors has an error of its own
        raise ValueError(
            f"{path} can't be read ({error}): it is damaged, or no file of LearnedAugmentation.save(path)"
        ) from error
    if not settings:
        raise ValueError(f"{path} holds tensors, but no LearnedAugmentation; expected a file of its save(path)")
    if settings.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{path} is of format {settings['format']}, and this version of hard_aug reads format {FORMAT}; install "
            "the version that wrote it"
        )
    if metadata.get(DIGEST) != _digest(metadata[SETTINGS], tensors):
        raise ValueError(f"{path} is damaged: its content is not what was written; save it again")
    return settings, tensors


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _plain(value: Any) -> Any:
    """Return a number of NumPy, or a tensor of one element, as Python's."""
    return value.item()


def _names(spec: tuple[Parameter, ...]) -> str:
    return ", ".join(parameter.name for parameter in spec[:8]) + (", ..." if len(spec) > 8 else "")
