"""Elementwise functions that transforms, policies and the fused operations share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SQRT_HALF = math.sqrt(0.5)
#: Largest fraction whose inverse is finite in float32.
END = 1 - 1e-6


class _Clamp(torch.autograd.Function):
    """Clamp to [0, 1] in the forward pass; pass the gradient through unchanged, at any order."""

    @staticmethod
    def forward(images: Tensor) -> Tensor:
        return images.clamp(0, 1)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None:
        """Save nothing: the backward pass needs no tensor."""

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


def clamp_with_gradient(images: Tensor) -> Tensor:
    """Clamp to [0, 1] with a straight-through gradient, so that saturated pixels still have one."""
    return _Clamp.apply(images)  # type: ignore[no-any-return]  # autograd functions are untyped


def unit_interval(u: Tensor) -> Tensor:
    """Return `2 Phi(u) - 1`, at least float32: reals go to (-1, 1), and N(0, 1) to the uniform distribution on it."""
    return torch.erf(at_least_float32(u) * _SQRT_HALF)


def at_fraction(fraction: Tensor) -> Tensor:
    """Return the inverse of `unit_interval`: reals for [-1, 1], finite at its ends."""
    return math.sqrt(2) * torch.erfinv(at_least_float32(fraction).clamp(-END, END))


def scale_sides(fraction: Tensor, reach: Tensor) -> Tensor:
    """Scale signed fractions of ranges, `(B, n)`, by the part of each range, `(n, 2)`, below and above the identity."""
    below, above = reach.unbind(1)
    return torch.where(fraction > 0, fraction * above, fraction * below)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return `tensor` in float32 if it is in half precision, else as it is."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.to(torch.float32)
