"""Fused batch operations. Each folder holds one: `reference.py` (PyTorch, the truth) and its dispatch."""

from hard_aug.ops.warp_color import warp_color

__all__ = ["warp_color"]
