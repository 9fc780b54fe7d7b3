"""Compute the map and the colour matrix that `warp_color` takes from raw parameters `u`, in one kernel.

In PyTorch the decoding, the sines and the products of small matrices take about a hundred launches on a GPU, longer
than the gather that they prepare.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hard_aug.ops.backend import Backend, use_triton
from hard_aug.ops.compose import custom, reference
from hard_aug.ops.compose.plan import LOGARITHMIC, SLOTS, Plan
from hard_aug.ops.elementwise import at_least_float32

__all__ = ["LOGARITHMIC", "SLOTS", "Plan", "compose", "compose_color", "compose_map"]

_STAGES = {"affine": 1, "perspective": 2}


def compose(
    u: Tensor, plan: Plan, *, height: int, width: int, channels: int, backend: Backend | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the inverse map and the colour matrix of each sample.

    Args:
        u: `(B, P)`, unbounded, at least float32; half precision is converted.
        plan: which columns are which parameters, and their ranges.
        height: of the images, in pixels.
        width: of the images, in pixels.
        channels: of the images, 1 or 3.
        backend: see `hard_aug.ops.backend`; None: that of the context.

    Returns:
        The map `(B, 3, 3)` from output to input positions, in pixels from the centre; None if no stage moves pixels.
        Its last row is used only if the plan has a perspective stage. And the colour matrix `(B, C, C + 1)`; None if no
        stage recolours.

    Gradients: u yes, second order with the PyTorch backend only.

    Raises:
        ValueError: wrong shapes, or channels that are neither 1 nor 3.
        RuntimeError: `backend="triton"`, and `u` is float64, which the kernel does not support.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Affine
        >>> inverse_map, color_matrix = compose(torch.zeros(1, 6), Affine().plan, height=8, width=8, channels=3)
        >>> torch.equal(inverse_map, torch.eye(3)[None]), color_matrix
        (True, None)
    """
    if u.ndim != 2 or u.shape[1] <= max(plan.columns):
        raise ValueError(f"u: expected shape (B, P) with P above {max(plan.columns)}, got {tuple(u.shape)}")
    if plan.colors and channels not in (1, 3):
        raise ValueError(f"channels={channels}: colour stages expected 1 or 3")
    u = at_least_float32(u)
    unsupported_reason = None if u.dtype == torch.float32 else f"the kernel requires u in float32, got {u.dtype}"
    if not use_triton(backend, u.device, unsupported_reason):
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
    """Compute only the inverse map, `(B, 3, 3)`; see `compose`.

    Raises:
        ValueError: a plan without a stage that moves pixels.
    """
    inverse_map, _ = compose(u, plan, height=height, width=width, channels=1)
    if inverse_map is None:
        raise ValueError(f"a plan of {', '.join(plan.stages)} has no stage that moves pixels")
    return inverse_map


def compose_color(u: Tensor, plan: Plan, *, channels: int) -> Tensor:
    """Compute only the colour matrix, `(B, C, C + 1)`; see `compose`.

    Raises:
        ValueError: a plan without a stage that recolours.
    """
    _, color = compose(u, plan, height=1, width=1, channels=channels)
    if color is None:
        raise ValueError(f"a plan of {', '.join(plan.stages)} has no stage that recolours")
    return color
