"""Generative models: diffusion models with their samplers and conditioning, autoencoders, and a hierarchical VAE."""

from hard_aug.generative.conditioning import ClassEmbeddings, ClassLabels, Conditioning, Unconditional
from hard_aug.generative.diffusion_model import DiffusionModel
from hard_aug.generative.hierarchical_vae import HierarchicalVAE
from hard_aug.generative.latent_directions import latent_directions
from hard_aug.generative.nfe import NFE
from hard_aug.generative.pretrained import load_autoencoder
from hard_aug.generative.sampler import DiffusionSampler

__all__ = [
    "NFE",
    "ClassEmbeddings",
    "ClassLabels",
    "Conditioning",
    "DiffusionModel",
    "DiffusionSampler",
    "HierarchicalVAE",
    "Unconditional",
    "latent_directions",
    "load_autoencoder",
]
