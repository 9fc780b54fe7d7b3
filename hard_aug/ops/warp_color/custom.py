"""The warp-and-colour kernels as custom operators of PyTorch: known to autograd, `torch.compile` and CUDA graphs.

They are registered when this file is imported; triton is imported, and a kernel compiled, when one runs.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from hard_aug.ops.backend import refuse_second_order
from hard_aug.ops.formats import memory_format_of
from hard_aug.ops.warp_color.checks import LARGEST, span

PARTS = ("inverse_map", "displacement", "color_matrix", "partner", "partner_weight", "normalization")
GRADIENTS = ("images", "inverse_map", "displacement", "color_matrix", "partner", "partner_weight")


@torch.library.custom_op("hard_aug::warp_color", mutates_args=())
def warp_color(
    images: Tensor,
    inverse_map: Tensor | None,
    displacement: Tensor | None,
    color_matrix: Tensor | None,
    partner: Tensor | None,
    partner_weight: Tensor | None,
    normalization: Tensor | None,
    padding: int,
    projective: bool,
    clamp: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Images and up to two normalised ones (empty where there are none). Parameters are contiguous float32."""
    from hard_aug.ops.warp_color import launch

    outputs = _outputs(images, normalization, dtype)
    parts = dict(
        zip(PARTS, (inverse_map, displacement, color_matrix, partner, partner_weight, normalization), strict=True)
    )
    if images.numel():
        launch.forward(images, parts, outputs, padding=padding, projective=projective, clamp=clamp)
    return outputs


@warp_color.register_fake
def _(
    images: Tensor,
    inverse_map: Tensor | None,
    displacement: Tensor | None,
    color_matrix: Tensor | None,
    partner: Tensor | None,
    partner_weight: Tensor | None,
    normalization: Tensor | None,
    padding: int,
    projective: bool,
    clamp: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(images, normalization, dtype)


def _outputs(images: Tensor, normalization: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    count = 0 if normalization is None else normalization.shape[0]
    form = memory_format_of(images)

    def output(wanted: bool) -> Tensor:
        if not wanted:
            return images.new_empty(0, dtype=dtype)
        return torch.empty_like(images, dtype=dtype, memory_format=form, requires_grad=False)

    return output(True), output(count > 0), output(count > 1)


@torch.library.custom_op("hard_aug::warp_color_backward", mutates_args=())
def warp_color_backward(
    first: Tensor | None,
    second: Tensor | None,
    third: Tensor | None,
    images: Tensor,
    inverse_map: Tensor | None,
    displacement: Tensor | None,
    color_matrix: Tensor | None,
    partner: Tensor | None,
    partner_weight: Tensor | None,
    normalization: Tensor | None,
    padding: int,
    projective: bool,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients in the order of `GRADIENTS`, empty where none is wanted, from those of the three outputs."""
    from hard_aug.ops.warp_color import launch

    values = (inverse_map, displacement, color_matrix, partner, partner_weight, normalization)
    parts = dict(zip(PARTS, values, strict=True))
    if not images.numel():
        return [torch.zeros_like(g) for g in _gradients(images, parts, wanted)]
    found = launch.backward(
        images,
        parts,
        (first, second, third),
        dict(zip(GRADIENTS, wanted, strict=True)),
        padding=padding,
        projective=projective,
    )
    return [found.get(name, images.new_empty(0)) for name in GRADIENTS]


@warp_color_backward.register_fake
def _(
    first: Tensor | None,
    second: Tensor | None,
    third: Tensor | None,
    images: Tensor,
    inverse_map: Tensor | None,
    displacement: Tensor | None,
    color_matrix: Tensor | None,
    partner: Tensor | None,
    partner_weight: Tensor | None,
    normalization: Tensor | None,
    padding: int,
    projective: bool,
    wanted: list[bool],
) -> list[Tensor]:
    values = (inverse_map, displacement, color_matrix, partner, partner_weight, normalization)
    return _gradients(images, dict(zip(PARTS, values, strict=True)), wanted)


def _gradients(images: Tensor, parts: dict[str, Tensor | None], wanted: list[bool]) -> list[Tensor]:
    """Empty tensors of the form that the gradients have."""
    found = []
    for name, want in zip(GRADIENTS, wanted, strict=True):
        source = images if name in ("images", "partner") else parts[name]
        if want and source is not None:
            found.append(torch.empty_like(source, memory_format=torch.contiguous_format, requires_grad=False))
        else:
            found.append(images.new_empty(0))
    return found


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.padding, ctx.projective, _clamp, _dtype = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    images, *parts = ctx.saved_tensors
    used = [_readable(gradient) if gradient is not None and gradient.numel() else None for gradient in upstream]
    wanted = [bool(need) for need in ctx.needs_input_grad[: len(GRADIENTS)]]
    nothing = (None,) * 11
    if not any(wanted) or (images.numel() and all(gradient is None for gradient in used)):
        return nothing
    if (wanted[0] or wanted[4]) and (parts[0] is not None or parts[1] is not None):
        _refuse_where_determinism_is_asked_for()
    found = warp_color_backward(*used, images, *parts, ctx.padding, ctx.projective, wanted)
    gradients = [gradient if want else None for gradient, want in zip(found, wanted, strict=True)]
    return (*gradients, *nothing[len(gradients) :])


def _readable(gradient: Tensor) -> Tensor:
    """With offsets inside a sample that fit 32 bits."""
    return gradient if span(gradient) <= LARGEST else gradient.contiguous()


def _refuse_where_determinism_is_asked_for() -> None:
    """The gradient of images that were gathered is added up by atomics, in no fixed order."""
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        "warp_color's gradient of the images has no deterministic kernel (that of the parameters has); put colours "
        "after spatial stages, so that none is needed"
    )
    if torch.is_deterministic_algorithms_warn_only_enabled():
        warnings.warn(message, stacklevel=3)
    else:
        raise RuntimeError(message)


warp_color.register_autograd(_backward, setup_context=_setup_context)
warp_color_backward.register_autograd(refuse_second_order("warp_color", "no backend has one"))
