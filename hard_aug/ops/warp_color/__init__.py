"""Warp and recolour a batch in one gather and one matrix per pixel."""

from hard_aug.ops.warp_color.reference import warp_color

__all__ = ["warp_color"]
