"""PyTorch custom operators of the warp-and-colour kernels, for autograd, `torch.compile` and CUDA graphs.

Importing this module registers the operators. Triton is imported, and a kernel compiled, at the first call.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from hard_aug.ops.backend import refuse_second_order
from hard_aug.ops.memory_formats import memory_format_of
from hard_aug.ops.warp_color.checks import MAX_INT32, span

#: Codes of the padding modes in the kernels.
PADDING = {"zeros": 0, "border": 1, "reflection": 2}
#: The optional tensor arguments, in the order in which the operators take them.
PARTS = ("inverse_map", "displacement", "color_matrix", "partner", "partner_weight", "normalization")
#: The arguments that have a gradient.
DIFFERENTIABLE = ("images", "inverse_map", "displacement", "color_matrix", "partner", "partner_weight")


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
    """Return the images and up to two normalised copies, empty where there are none.

    `reference.warp_color` describes the arguments. All but the images are contiguous float32 here, except for the
    partner, which has the type of the images.
    """
    from hard_aug.ops.warp_color import launch

    outputs = _empty_outputs(images, normalization, dtype)
    values = (inverse_map, displacement, color_matrix, partner, partner_weight, normalization)
    if images.numel():
        parts = dict(zip(PARTS, values, strict=True))
        launch.forward(images, parts, outputs, padding=padding, projective=projective, clamp=clamp)
    return outputs


@warp_color.register_fake
def _(images: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_outputs(images, normalization=others[len(PARTS) - 1], dtype=others[-1])


def _empty_outputs(images: Tensor, normalization: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    count = 0 if normalization is None else normalization.shape[0]
    memory_format = memory_format_of(images)

    def output(used: bool) -> Tensor:
        if not used:
            return images.new_empty(0, dtype=dtype)
        return torch.empty_like(images, dtype=dtype, memory_format=memory_format, requires_grad=False)

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
    output_mask: list[bool],
) -> list[Tensor]:
    """Compute the gradients in the order of `DIFFERENTIABLE` from those of the three outputs.

    A gradient is an empty tensor where `output_mask` is False.
    """
    from hard_aug.ops.warp_color import launch

    values = (inverse_map, displacement, color_matrix, partner, partner_weight, normalization)
    parts = dict(zip(PARTS, values, strict=True))
    if not images.numel():
        return [torch.zeros_like(gradient) for gradient in _empty_gradients(images, parts, output_mask)]
    needed = dict(zip(DIFFERENTIABLE, output_mask, strict=True))
    gradients = launch.backward(images, parts, (first, second, third), needed, padding=padding, projective=projective)
    return [gradients.get(name, images.new_empty(0)) for name in DIFFERENTIABLE]


@warp_color_backward.register_fake
def _(first: Tensor | None, second: Tensor | None, third: Tensor | None, images: Tensor, *others: Any) -> list[Tensor]:
    parts = dict(zip(PARTS, others, strict=False))
    return _empty_gradients(images, parts, output_mask=others[-1])


def _empty_gradients(images: Tensor, parts: dict[str, Tensor | None], output_mask: list[bool]) -> list[Tensor]:
    """Allocate tensors with the shapes and types of the gradients."""
    gradients = []
    for name, needed in zip(DIFFERENTIABLE, output_mask, strict=True):
        source = images if name in ("images", "partner") else parts[name]
        if needed and source is not None:
            gradients.append(torch.empty_like(source, memory_format=torch.contiguous_format, requires_grad=False))
        else:
            gradients.append(images.new_empty(0))
    return gradients


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.padding, ctx.projective, _clamp, _dtype = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    images, *parts = ctx.saved_tensors
    used = [_with_int32_offsets(grad) if grad is not None and grad.numel() else None for grad in upstream]
    output_mask = [bool(needed) for needed in ctx.needs_input_grad[: len(DIFFERENTIABLE)]]
    nothing = (None,) * 11
    if not any(output_mask) or (images.numel() and all(gradient is None for gradient in used)):
        return nothing
    if (output_mask[0] or output_mask[4]) and (parts[0] is not None or parts[1] is not None):
        _check_determinism()
    found = warp_color_backward(*used, images, *parts, ctx.padding, ctx.projective, output_mask)
    gradients = [gradient if needed else None for gradient, needed in zip(found, output_mask, strict=True)]
    return (*gradients, *nothing[len(gradients) :])


def _with_int32_offsets(gradient: Tensor) -> Tensor:
    """Make the offsets within a sample fit 32 bits."""
    return gradient if span(gradient) <= MAX_INT32 else gradient.contiguous()


def _check_determinism() -> None:
    """Raise or warn where deterministic algorithms are required: the gradient of warped images uses atomic adds."""
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        "warp_color: the gradient of the images has no deterministic kernel (those of the parameters have); put colour "
        "stages after spatial stages, so that it is not needed"
    )
    if torch.is_deterministic_algorithms_warn_only_enabled():
        warnings.warn(message, stacklevel=3)
    else:
        raise RuntimeError(message)


warp_color.register_autograd(_backward, setup_context=_setup_context)
warp_color_backward.register_autograd(refuse_second_order("warp_color", "no backend has one"))
