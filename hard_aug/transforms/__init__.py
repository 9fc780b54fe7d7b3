"""Differentiable image transforms with explicit per-sample parameters."""

from hard_aug.transforms.base import ColorTransform, Context, Parameter, SpatialTransform, Transform
from hard_aug.transforms.color import Color
from hard_aug.transforms.compose import Compose
from hard_aug.transforms.spatial import Affine

__all__ = [
    "Affine",
    "Color",
    "ColorTransform",
    "Compose",
    "Context",
    "Parameter",
    "SpatialTransform",
    "Transform",
]
