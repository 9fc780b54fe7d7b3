"""Differentiable image transforms with explicit per-sample parameters."""

from hard_aug.transforms.affine import Affine
from hard_aug.transforms.base import (
    ColorTransform,
    DisplacementTransform,
    SpatialTransform,
    Transform,
)
from hard_aug.transforms.color import Color
from hard_aug.transforms.compose import Compose
from hard_aug.transforms.context import Context, make_context
from hard_aug.transforms.diffusion_noise import Diffusion
from hard_aug.transforms.elastic import Elastic
from hard_aug.transforms.filter import Filter
from hard_aug.transforms.hierarchical_latent import Hierarchical, HierarchicalLatent, measure_latent_std
from hard_aug.transforms.menu import Menu, menu
from hard_aug.transforms.narrowed import Narrowed
from hard_aug.transforms.operations import Operations
from hard_aug.transforms.patch_mix import PatchMix
from hard_aug.transforms.perspective import Perspective
from hard_aug.transforms.spec import Parameter
from hard_aug.transforms.vae_latent import VAELatent

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
    "Menu",
    "Narrowed",
    "Operations",
    "Parameter",
    "PatchMix",
    "Perspective",
    "SpatialTransform",
    "Transform",
    "VAELatent",
    "make_context",
    "measure_latent_std",
    "menu",
]
