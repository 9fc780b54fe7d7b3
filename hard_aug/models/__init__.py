"""Networks as players: their input normalisation, timm's by name, BatchNorm on two views, the guard of their state."""

from hard_aug.models.batch_norm import BatchNormMode, ViewStatistics
from hard_aug.models.guard import evaluation_mode, unwrapped
from hard_aug.models.hierarchical_vae import HierarchicalVAE
from hard_aug.models.latent_directions import latent_directions
from hard_aug.models.normalized import Normalized
from hard_aug.models.timm import timm_model

__all__ = [
    "BatchNormMode",
    "HierarchicalVAE",
    "Normalized",
    "ViewStatistics",
    "evaluation_mode",
    "latent_directions",
    "timm_model",
    "unwrapped",
]
