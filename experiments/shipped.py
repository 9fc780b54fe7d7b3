"""The small generative models that ship: Fashion-MNIST, grey, 32 x 32, made by `experiments.generative`."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from experiments.train import choose_device
from hard_aug.models import HierarchicalVAE, load_autoencoder
from hard_aug.solvers import Diffuser

#: Their folder; `report.json` in it says how they were made and how good they are.
SHIPPED = Path(__file__).parent / "pretrained" / "fashion_mnist"


def autoencoder(folder: str | None = None, *, device: str = "auto") -> nn.Module:
    """An autoencoder of any class of diffusers, frozen.

    Args:
        folder: that holds it in `vae/` or itself, or such a name on the hub; None: the one that ships.
        device: as the experiments name it.
    """
    return load_autoencoder(folder or SHIPPED).to(choose_device(device)).requires_grad_(False)


def diffuser(folder: str | None = None, *, guidance_scale: float = 1.0, device: str = "auto") -> Diffuser:
    """A diffusion model conditioned on classes.

    Args:
        folder: that holds `unet`, `scheduler` and perhaps `vae`, or a name on the hub; None: the one that ships.
        guidance_scale: of classifier-free guidance; 1: none.
        device: as the experiments name it.
    """
    return Diffuser.from_pretrained(folder or SHIPPED, guidance_scale=guidance_scale).to(choose_device(device))


def hierarchical_vae(folder: str | None = None, *, device: str = "auto") -> HierarchicalVAE:
    """A hierarchical VAE of your own; none ships.

    Args:
        folder: what `HierarchicalVAE.save_pretrained` wrote.
        device: as the experiments name it.

    Raises:
        ValueError: no folder.
        FileNotFoundError: one that holds none.
    """
    if folder is None:
        raise ValueError(
            "no hierarchical VAE ships: train a hard_aug.models.HierarchicalVAE, vae.save_pretrained(folder), and give "
            "augmenter.transform.vae.folder=<folder>"
        )
    return HierarchicalVAE.from_pretrained(folder).to(choose_device(device)).requires_grad_(False)
