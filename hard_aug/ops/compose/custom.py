"""PyTorch custom operators of the compose kernels, for autograd, `torch.compile` and CUDA graphs.

Importing this module registers the operators. Triton is imported, and a kernel compiled, at the first call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hard_aug.ops.backend import on_device_of, refuse_second_order
from hard_aug.ops.compose.plan import SLOTS

#: Samples per program, and warps.
BLOCK, WARPS = 64, 2


@torch.library.custom_op("hard_aug::compose", mutates_args=())
def compose(
    u: Tensor,
    columns: Sequence[int],
    centres: Sequence[float],
    halves: Sequence[float],
    first: int,
    second: int,
    colored: bool,
    height: int,
    width: int,
    channels: int,
    distance: float,
) -> tuple[Tensor, Tensor]:
    """Compute the map `(B, 3, 3)` and the colour matrix `(B, C, C + 1)`, each empty if there is none.

    `u` is contiguous float32. `first` and `second` are the stages that move pixels: 1 affine, 2 perspective, 0 none.
    """
    from hard_aug.ops.compose import triton as kernels

    inverse_map, color = _empty_outputs(u, first, colored, channels)
    if len(u):
        with on_device_of(u):
            kernels._forward[_grid(u)](
                inverse_map=inverse_map,
                color=color,
                FIRST=first,
                SECOND=second,
                COLORED=colored,
                **_common(u, columns, centres, halves, height, width, channels, distance),
            )
    return inverse_map, color


@compose.register_fake
def _(u: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    _columns, _centres, _halves, first, _second, colored, _height, _width, channels, _distance = settings
    return _empty_outputs(u, first, colored, channels)


def _empty_outputs(u: Tensor, first: int, colored: bool, channels: int) -> tuple[Tensor, Tensor]:
    batch = u.shape[0]
    return (
        u.new_empty((batch, 3, 3) if first else 0),
        u.new_empty((batch, channels, channels + 1) if colored else 0),
    )


@torch.library.custom_op("hard_aug::compose_backward", mutates_args=())
def compose_backward(
    map_gradient: Tensor | None,
    color_gradient: Tensor | None,
    u: Tensor,
    columns: Sequence[int],
    centres: Sequence[float],
    halves: Sequence[float],
    first: int,
    second: int,
    height: int,
    width: int,
    channels: int,
    distance: float,
) -> Tensor:
    """Compute the gradient of `u` from those of the map and the colour matrix, contiguous; None if there is none."""
    from hard_aug.ops.compose import triton as kernels

    fully_written = _writes_every_column(u, columns, channels, map_gradient, color_gradient)
    out = torch.empty_like(u) if fully_written else torch.zeros_like(u)
    if len(u):
        with on_device_of(u):
            kernels._backward[_grid(u)](
                map_gradient=u if map_gradient is None else map_gradient,
                color_gradient=u if color_gradient is None else color_gradient,
                out=out,
                FIRST=0 if map_gradient is None else first,
                SECOND=0 if map_gradient is None else second,
                COLORED=color_gradient is not None,
                **_common(u, columns, centres, halves, height, width, channels, distance),
            )
    return out


def _grid(u: Tensor) -> tuple[int]:
    return (-(-len(u) // BLOCK),)


def _common(
    u: Tensor,
    columns: Sequence[int],
    centres: Sequence[float],
    halves: Sequence[float],
    height: int,
    width: int,
    channels: int,
    distance: float,
) -> dict[str, Any]:
    """Return the arguments of both kernels."""
    return {
        "u": u,
        "batch": len(u),
        "size": u.shape[1],
        "centres": tuple(map(float, centres)),
        "halves": tuple(map(float, halves)),
        "height": height,
        "width": width,
        "distance": distance,
        "AT": tuple(columns),
        "C": channels,
        "BLOCK": BLOCK,
        "num_warps": WARPS,
    }


def _writes_every_column(
    u: Tensor, columns: Sequence[int], channels: int, map_gradient: Tensor | None, color_gradient: Tensor | None
) -> bool:
    """Return whether every column of `u` belongs to a parameter of an output that has a gradient."""
    names = list(SLOTS)
    given = [name for name, column in zip(names, columns, strict=True) if column >= 0]
    of_color = {name for name in given if SLOTS[name] == "color"}
    if len(given) < u.shape[1] or (channels == 1 and of_color & {"saturation", "hue"}):
        return False
    return (color_gradient is not None or not of_color) and (map_gradient is not None or len(of_color) == len(given))


@compose_backward.register_fake
def _(map_gradient: Tensor | None, color_gradient: Tensor | None, u: Tensor, *settings: Any) -> Tensor:
    return torch.empty_like(u)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    u, columns, centres, halves, first, second, _colored, height, width, channels, distance = inputs
    ctx.save_for_backward(u)
    ctx.plan = columns, centres, halves, first, second, height, width, channels, distance
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, map_gradient: Tensor | None, color_gradient: Tensor | None) -> tuple[Tensor | None, ...]:
    given = [
        None if gradient is None or not gradient.numel() else gradient.contiguous()
        for gradient in (map_gradient, color_gradient)
    ]
    (u,) = ctx.saved_tensors
    gradient = compose_backward(*given, u, *ctx.plan)
    return (gradient, *(None,) * 10)


compose.register_autograd(_backward, setup_context=_setup_context)
compose_backward.register_autograd(refuse_second_order("compose", "use backend='torch'"))
