"""Networks: their input normalisation, timm's and diffusers' by name, BatchNorm on two views, their state's guard."""

from hard_aug.models.batch_norm import BatchNormMode, ViewStatistics
from hard_aug.models.guard import evaluation_mode, unwrapped
from hard_aug.models.hierarchical_vae import HierarchicalVAE
from hard_aug.models.latent_directions import latent_directions
from hard_aug.models.normalized import Normalized
from hard_aug.models.pretrained import load_autoencoder
from hard_aug.models.timm import timm_model

__all__ = [
    "BatchNormMode",
    "HierarchicalVAE",
    "Normalized",
    "ViewStatistics",
    "evaluation_mode",
    "latent_directions",
    "load_autoencoder",
    "timm_model",
    "unwrapped",
]
