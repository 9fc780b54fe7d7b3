"""Wrappers and helpers for teacher and student networks.

They cover input normalisation, timm models by name, BatchNorm on two views, and temporary evaluation mode.
"""

from hard_aug.models.batch_norm import BatchNormMode, ViewStatistics
from hard_aug.models.eval_mode import eval_mode, unwrap_model
from hard_aug.models.normalized import Normalized
from hard_aug.models.timm import timm_model

__all__ = [
    "BatchNormMode",
    "Normalized",
    "ViewStatistics",
    "eval_mode",
    "timm_model",
    "unwrap_model",
]
