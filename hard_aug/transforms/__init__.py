"""Differentiable image transforms with explicit per-sample parameters."""

from hard_aug.transforms.base import (
    ColorTransform,
    Context,
    DisplacementTransform,
    Parameter,
    SpatialTransform,
    Transform,
)
from hard_aug.transforms.color import Color
from hard_aug.transforms.compose import Compose
from hard_aug.transforms.diffusion import Diffusion
from hard_aug.transforms.elastic import Elastic
from hard_aug.transforms.filters import Filter
from hard_aug.transforms.hierarchical import Hierarchical, HierarchicalLatent, latent_spread
from hard_aug.transforms.mix import PatchMix
from hard_aug.transforms.perspective import Perspective
from hard_aug.transforms.spatial import Affine
from hard_aug.transforms.vae import VAELatent

__all__ = [
    "Affine",
    "Color",
    "ColorTransform",
    "Compose",
    "Context",
    "Diffusion",
    "DisplacementTransform",
    "Elastic",
    "Filter",
    "Hierarchical",
    "HierarchicalLatent",
    "Parameter",
    "PatchMix",
    "Perspective",
    "SpatialTransform",
    "Transform",
    "VAELatent",
    "latent_spread",
]
