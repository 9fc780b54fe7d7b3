"""Networks of the experiments: teachers and students, weights from files, and generative models."""

from experiments.models.networks import ConvTeacher, MLPStudent, OrbitTeacher, multiply_adds, small_vit, timm_network
from experiments.models.pretrained_generative import (
    SHIPPED,
    autoencoder,
    diffusion_model,
    hierarchical_vae,
    latent_edits,
)
from experiments.models.weights import build_network, build_teacher, load_weights

__all__ = [
    "SHIPPED",
    "ConvTeacher",
    "MLPStudent",
    "OrbitTeacher",
    "autoencoder",
    "build_network",
    "build_teacher",
    "diffusion_model",
    "hierarchical_vae",
    "latent_edits",
    "load_weights",
    "multiply_adds",
    "small_vit",
    "timm_network",
]
