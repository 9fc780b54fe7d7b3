"""Wrappers and helpers for teacher and student networks.

They cover input normalisation, timm models by name, BatchNorm on two views, temporary evaluation mode, and running
networks of any kind with checked logits.
"""

from hard_aug.models.batch_norm import BatchNormMode, ViewStatistics
from hard_aug.models.eval_mode import eval_mode, unwrap_model
from hard_aug.models.network import Network
from hard_aug.models.normalized import NetworkNormalizations, Normalization, Normalized
from hard_aug.models.timm import timm_model

__all__ = [
    "BatchNormMode",
    "Network",
    "NetworkNormalizations",
    "Normalization",
    "Normalized",
    "ViewStatistics",
    "eval_mode",
    "timm_model",
    "unwrap_model",
]
