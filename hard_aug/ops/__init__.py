"""Fused batch operations. Each folder holds one: reference in PyTorch (the truth), Triton kernels, dispatch, README."""

from hard_aug.ops.backend import Backend, use_backend
from hard_aug.ops.warp_color import fold_normalization, warp_color, warp_color_normalized

__all__ = ["Backend", "fold_normalization", "use_backend", "warp_color", "warp_color_normalized"]
