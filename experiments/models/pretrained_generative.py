"""Generative models; the small ones that ship, of Fashion-MNIST, were trained by `experiments.train_generative`."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from experiments.configuration.devices import choose_device
from hard_aug.data import ImageSet
from hard_aug.generative import DiffusionModel, HierarchicalVAE, latent_directions, load_autoencoder
from hard_aug.transforms import VAELatent

#: Folder of the models; `report.json` in it describes how they were trained and how good they are.
SHIPPED = Path(__file__).parent.parent / "pretrained" / "fashion_mnist"


def autoencoder(folder: str | None = None, *, device: str = "auto") -> nn.Module:
    """Load an autoencoder of any class of diffusers, frozen.

    `folder` has it in `vae/` or at its root, or is a name on the hub; None: the shipped one.
    """
    return load_autoencoder(_location(folder)).to(choose_device(device)).requires_grad_(False)


def diffusion_model(folder: str | None = None, *, guidance_scale: float = 1.0, device: str = "auto") -> DiffusionModel:
    """Load a diffusion model conditioned on classes.

    `folder` has `unet`, `scheduler` and optionally `vae`, or is a name on the hub; None: the shipped one.
    `guidance_scale` is that of classifier-free guidance; 1: none.
    """
    return DiffusionModel.from_pretrained(_location(folder), guidance_scale=guidance_scale).to(choose_device(device))


def hierarchical_vae(folder: str | None = None, *, device: str = "auto") -> HierarchicalVAE:
    """Load a hierarchical VAE from a folder written by `HierarchicalVAE.save_pretrained`; none is shipped.

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


def latent_edits(
    autoencoder: nn.Module,
    *,
    images: ImageSet,
    directions: int,
    direction_images: int,
    direction: float,
    shift: float | None = None,
) -> VAELatent:
    """Return edits of latents along the principal directions of training images.

    Args:
        autoencoder: of diffusers, on the images' device.
        images: the training images.
        directions: number of directions.
        direction_images: number of images, the first ones, that they are computed from; above `directions`.
        direction: largest step along each, in standard deviations of the images.
        shift: largest shift of a latent channel, in standard deviations; None: off.
    """
    found = latent_directions(autoencoder, images[slice(0, direction_images)].materialize().images, directions)
    return VAELatent(autoencoder, shift=shift, direction=direction, directions=found)


def _location(folder: str | None) -> str | Path:
    if folder is not None and folder.count("/") > 1 and not Path(folder).is_dir():  # no name on the hub
        raise FileNotFoundError(
            f"no generative models in {folder}; train them with python -m experiments.train_generative hydra.run.dir="
            f"{folder} (for data=spurious also --config-name generative_spurious data.rare=0.1)"
        )
    return folder or SHIPPED
