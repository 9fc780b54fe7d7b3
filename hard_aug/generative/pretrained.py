"""Load models and schedulers of diffusers, of the class that their config names, from a folder or the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hard_aug.utils.extras import requires_extra

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
    """Load a model or a scheduler.

    Args:
        name: a folder, or a name on the hub.
        family: any class of diffusers whose config file has the same name as that of the part.
        subfolder: subfolder of the part; None: the root.
        weights: further arguments of a model's `from_pretrained`, such as `torch_dtype`.
        revision: revision of the repository on the hub.
        local_files_only: whether to use downloaded files only.

    Raises:
        OSError: the files do not exist, or the weights are damaged (errors of diffusers).
        ValueError: the config names no class of diffusers, or one that it does not fit.
    """
    location, subfolder = _location(name, subfolder)
    where: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only, "subfolder": subfolder}
    config = family.load_config(location, **where)
    with _naming(location):
        return _class_from_config(config, name).from_pretrained(location, **where, **(weights or {}))


def load_autoencoder(
    name: str | Path,
    *,
    torch_dtype: torch.dtype | None = None,
    variant: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> nn.Module:
    """Load an autoencoder of any class of diffusers, on the CPU, in evaluation mode.

    Args:
        name: a folder, or a name on the hub, with the autoencoder in `vae/` ("stable-diffusion-v1-5/...") or else at
            its root ("stabilityai/sd-vae-ft-mse", "madebyollin/taesd").
        torch_dtype: dtype of the weights; None: float32. If it is float16 and the config says that the autoencoder
            overflows in it (`force_upcast`), the weights are float32 all the same.
        variant: variant of the weight files, such as "fp16".
        revision: revision of the repository on the hub.
        local_files_only: whether to use downloaded files only.

    Raises:
        OSError: neither place has a config.
        ValueError: the config is not that of an autoencoder.
    """
    with requires_extra("load_autoencoder", "diffusion", "diffusers"):
        from diffusers import AutoencoderKL

    where: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
    subfolder, config = _find_config(name, AutoencoderKL, where)
    kind = _class_from_config(config, name)
    if not (hasattr(kind, "encode") and hasattr(kind, "decode")):
        raise ValueError(
            f"{name} holds the config of a {kind.__name__}, which is no autoencoder; expected one such as "
            "AutoencoderKL or AutoencoderTiny, in vae/ or at the root"
        )
    location, subfolder = _location(name, subfolder)
    with _naming(location):
        model: nn.Module = kind.from_pretrained(
            location, subfolder=subfolder, torch_dtype=torch_dtype, variant=variant, **where
        )
    overflows = torch_dtype == torch.float16 and getattr(model.config, "force_upcast", False)
    return (model.float() if overflows else model).eval()


@contextmanager
def _naming(location: str) -> Iterator[None]:
    """Add the place to errors of diffusers about the content of files; those about files have their path."""
    try:
        yield
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"{location} can't be loaded ({error}): its files are damaged, or of another version of diffusers; remove "
            "it and get it again"
        ) from error


def _find_config(name: str | Path, family: Any, where: dict[str, Any]) -> tuple[str | None, Any]:
    """Return the subfolder with a config (None: the root), and the config."""
    if Path(name).is_dir():
        subfolders = [subfolder for subfolder in ("vae", None) if (Path(name) / (subfolder or "") / CONFIG).is_file()]
        if not subfolders:
            raise OSError(
                f"{name} has neither vae/{CONFIG} nor {CONFIG}: expected a folder with an autoencoder of diffusers, as "
                "its save_pretrained writes one"
            )
        location, subfolder = _location(name, subfolders[0])
        return subfolders[0], family.load_config(location, subfolder=subfolder, **where)
    try:
        return "vae", family.load_config(str(name), subfolder="vae", **where)
    except OSError:  # no such file, no such repository, or no network: the attempt at the root says which
        pass
    try:
        return None, family.load_config(str(name), **where)
    except OSError as error:
        raise OSError(f"{name} has no autoencoder in vae/, nor at its root: {error}") from error


def _location(name: str | Path, subfolder: str | None) -> tuple[str, str | None]:
    """Return name and subfolder for diffusers, which prefers weight files at the root to those in a subfolder."""
    path = Path(name) / (subfolder or "")
    return (str(path), None) if path.is_dir() else (str(name), subfolder)


def _class_from_config(config: Any, name: str | Path) -> Any:
    import diffusers

    class_name = config.get("_class_name")
    kind = getattr(diffusers, str(class_name), None)
    if kind is None:
        raise ValueError(
            f"the config of {name} names the class {class_name}, which diffusers {diffusers.__version__} does not "
            "have; expected a model of diffusers"
        )
    return kind
