"""Fused batch operations.

Each folder holds one operation: the PyTorch reference, Triton kernels, the choice between them, and a README.
"""

from hard_aug.ops.backend import Backend, use_backend
from hard_aug.ops.warp_color import warp_color

__all__ = ["Backend", "use_backend", "warp_color"]
