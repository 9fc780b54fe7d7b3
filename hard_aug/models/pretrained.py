"""Models of diffusers from a folder or by a name on the hub, of the class that their own config names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

CONFIG = "config.json"


def load_part(
    name: str | Path,
    family: Any,
    *,
    subfolder: str | None = None,
    weights: dict[str, Any] | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Any:
    """A model or a scheduler.

    Args:
        name: a folder, or a name on the hub.
        family: any class of diffusers whose configs have the same name as those of what is loaded.
        subfolder: of the part; None: the root.
        weights: further arguments of a model's `from_pretrained`, such as `torch_dtype`.
        revision: of the repository on the hub.
        local_files_only: do not ask the hub.

    Raises:
        OSError: nothing there, as diffusers says it.
        ValueError: a config of no class of diffusers.
    """
    place, subfolder = _place(name, subfolder)
    where: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only, "subfolder": subfolder}
    config = family.load_config(place, **where)
    return _class_of(config, name).from_pretrained(place, **where, **(weights or {}))


def load_autoencoder(
    name: str | Path,
    *,
    torch_dtype: torch.dtype | None = None,
    variant: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> nn.Module:
    """An autoencoder of any class of diffusers, on the CPU, in evaluation mode.

    Args:
        name: a folder, or a name on the hub, with the autoencoder in `vae/` ("stable-diffusion-v1-5/..."), else at its
            root ("stabilityai/sd-vae-ft-mse", "madebyollin/taesd").
        torch_dtype: of the weights; None: float32. Where that is float16 and the config says that the autoencoder
            overflows in it (`force_upcast`), they are float32 all the same.
        variant: of the files of weights, such as "fp16".
        revision: of the repository on the hub.
        local_files_only: do not ask the hub.

    Raises:
        OSError: no config in either place.
        ValueError: what is there is no autoencoder.
    """
    from diffusers import AutoencoderKL

    where: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
    subfolder, config = _found(name, AutoencoderKL, where)
    kind = _class_of(config, name)
    if not (hasattr(kind, "encode") and hasattr(kind, "decode")):
        raise ValueError(
            f"{name} holds the config of a {kind.__name__}, which is no autoencoder; wanted one such as AutoencoderKL "
            "or AutoencoderTiny, in vae/ or at the root"
        )
    place, subfolder = _place(name, subfolder)
    model: nn.Module = kind.from_pretrained(
        place, subfolder=subfolder, torch_dtype=torch_dtype, variant=variant, **where
    )
    overflows = torch_dtype == torch.float16 and getattr(model.config, "force_upcast", False)
    return (model.float() if overflows else model).eval()


def _found(name: str | Path, family: Any, where: dict[str, Any]) -> tuple[str | None, Any]:
    """The subfolder (None: the root), and the config there."""
    if Path(name).is_dir():
        places = [subfolder for subfolder in ("vae", None) if (Path(name) / (subfolder or "") / CONFIG).is_file()]
        if not places:
            raise OSError(
                f"{name} has neither vae/{CONFIG} nor {CONFIG}: wanted a folder that holds an autoencoder of "
                "diffusers, as its save_pretrained writes one"
            )
        place, subfolder = _place(name, places[0])
        return places[0], family.load_config(place, subfolder=subfolder, **where)
    try:
        return "vae", family.load_config(str(name), subfolder="vae", **where)
    except OSError:  # no such file, or no such repository, or no way to ask: the root says which
        pass
    try:
        return None, family.load_config(str(name), **where)
    except OSError as error:
        raise OSError(f"{name} has no autoencoder in vae/, nor at its root: {error}") from error


def _place(name: str | Path, subfolder: str | None) -> tuple[str, str | None]:
    """Name and subfolder for diffusers, which in a folder prefers the root's files of weights to the subfolder's."""
    own = Path(name) / (subfolder or "")
    return (str(own), None) if own.is_dir() else (str(name), subfolder)


def _class_of(config: Any, name: str | Path) -> Any:
    import diffusers

    named = config.get("_class_name")
    kind = getattr(diffusers, str(named), None)
    if kind is None:
        raise ValueError(
            f"the config of {name} names the class {named}, which is none of diffusers {diffusers.__version__}; wanted "
            "a model of diffusers"
        )
    return kind
