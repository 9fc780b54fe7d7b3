"""The small generative models that ship: Fashion-MNIST, grayscale, 32 x 32, trained by `experiments.train_generative`."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from experiments.train import choose_device
from hard_aug.generative import DiffusionModel, HierarchicalVAE, load_autoencoder

#: Folder of the models; `report.json` in it describes how they were trained and how good they are.
SHIPPED = Path(__file__).parent.parent / "pretrained" / "fashion_mnist"


def autoencoder(folder: str | None = None, *, device: str = "auto") -> nn.Module:
    """Load an autoencoder of any class of diffusers, frozen.

    Args:
        folder: folder with the autoencoder in `vae/` or at its root, or a name on the hub; None: the shipped one.
        device: device, as in the configurations.
    """
    return load_autoencoder(folder or SHIPPED).to(choose_device(device)).requires_grad_(False)


def diffusion_model(folder: str | None = None, *, guidance_scale: float = 1.0, device: str = "auto") -> DiffusionModel:
    """Load a diffusion model conditioned on classes.

    Args:
        folder: folder with `unet`, `scheduler` and optionally `vae`, or a name on the hub; None: the shipped one.
        guidance_scale: scale of classifier-free guidance; 1: no guidance.
        device: device, as in the configurations.
    """
    return DiffusionModel.from_pretrained(folder or SHIPPED, guidance_scale=guidance_scale).to(choose_device(device))


def hierarchical_vae(folder: str | None = None, *, device: str = "auto") -> HierarchicalVAE:
    """Load a hierarchical VAE; none is shipped.

    Args:
        folder: folder written by `HierarchicalVAE.save_pretrained`.
        device: device, as in the configurations.

    Raises:
        ValueError: no folder is given.
        FileNotFoundError: the folder holds no model.
    """
    if folder is None:
        raise ValueError(
            "no hierarchical VAE is shipped: train a hard_aug.generative.HierarchicalVAE, call "
            "vae.save_pretrained(folder), and give augmenter.transform.vae.folder=<folder>"
        )
    return HierarchicalVAE.from_pretrained(folder).to(choose_device(device)).requires_grad_(False)
