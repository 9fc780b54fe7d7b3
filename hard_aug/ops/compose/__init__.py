"""From raw parameters `u` to the map and the colour matrix that `warp_color` takes, in one kernel.

In PyTorch the decoding, the sines and the products of small matrices are a hundred launches on a GPU, more than the
gather they prepare.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hard_aug.ops.backend import Backend, takes_triton
from hard_aug.ops.compose import custom, reference
from hard_aug.ops.compose.plan import LOGARITHMIC, SLOTS, Plan

__all__ = ["LOGARITHMIC", "SLOTS", "Plan", "compose", "compose_color", "compose_map"]

_STAGES = {"affine": 1, "perspective": 2}


def compose(
    u: Tensor, plan: Plan, *, height: int, width: int, channels: int, backend: Backend | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """The inverse map and the colour matrix of each sample.

    Args:
        u: `(B, P)`, unbounded, float32 (with PyTorch any floating point).
        plan: which columns are which parameters, and their ranges.
        height, width: of the images, pixels.
        channels: of the images, 1 or 3.
        backend: see `hard_aug.ops.backend`; None: that of the context.

    Returns:
        `(B, 3, 3)` from output to input positions, in pixels from the centre; None where no stage moves pixels. Its
            last row counts where the plan has a perspective. And `(B, C, C + 1)`; None where no stage recolours.

    Gradients: u yes, second order with PyTorch alone.

    Raises:
        ValueError: wrong shapes, or channels that are neither 1 nor 3.
        RuntimeError: `backend="triton"`, and the kernel does not serve: it takes float32.
    """
    if u.ndim != 2 or u.shape[1] <= max(plan.columns):
        raise ValueError(f"u: wanted shape (B, P) with P above {max(plan.columns)}, got {tuple(u.shape)}")
    if plan.colors and channels not in (1, 3):
        raise ValueError(f"channels={channels}: colour matrices are for 1 or 3")
    refusal = None if u.dtype == torch.float32 else f"the kernel takes u of float32, got {u.dtype}"
    if not takes_triton(backend, u.device, refusal):
        return reference.compose(u, plan, height=height, width=width, channels=channels)
    first, second = (*(_STAGES[stage] for stage in plan.maps), 0, 0)[:2]
    inverse_map, color = custom.compose(
        u.contiguous(),
        plan.columns,
        plan.centres,
        plan.halves,
        first,
        second,
        plan.colors,
        height,
        width,
        channels,
        float(plan.focal_length * max(height, width)),
    )
    return inverse_map if first else None, color if plan.colors else None


def compose_map(u: Tensor, plan: Plan, *, height: int, width: int) -> Tensor:
    """The inverse map alone, `(B, 3, 3)`.

    Raises:
        ValueError: a plan without a stage that moves pixels.
    """
    inverse_map, _ = compose(u, plan, height=height, width=width, channels=1)
    if inverse_map is None:
        raise ValueError(f"a plan of {', '.join(plan.stages)} moves no pixels")
    return inverse_map


def compose_color(u: Tensor, plan: Plan, *, channels: int) -> Tensor:
    """The colour matrix alone, `(B, C, C + 1)`.

    Raises:
        ValueError: a plan without a stage that recolours.
    """
    _, color = compose(u, plan, height=1, width=1, channels=channels)
    if color is None:
        raise ValueError(f"a plan of {', '.join(plan.stages)} recolours nothing")
    return color
