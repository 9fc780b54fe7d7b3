"""Warp and recolour a batch in one gather and one matrix per pixel.

Conventions (pinned by `tests/test_ops.py`):

- Pixel centres are at integer + 1/2; coordinates are pixels from the image's centre, `x` to the right and `y` down,
  in the order `(x, y)`. In PyTorch's terms this is `align_corners=False`.
- `inverse_map` takes an *output* position to the *input* position that is read there. With
  `projective=True` a position whose third coordinate is not positive lies behind the viewer, outside the image.
- `displacement` is added to the output position before the map: `input = M(q + d(q))`. It is given at the points of a
  coarse grid, and `d` is their uniform cubic B-spline over the image (free-form deformation: Rueckert et al., 1999).
  The basis is positive and sums to one, so no pixel moves further than the largest control value.
- Positions outside the image read zero by default; colour comes after the warp, so it applies to that fill too.
- Any numbers may be in a map or displacement. A singular one reads along a line or at a point; where a position is no
  finite number it lies outside the image, right of and below it by its own size, and has no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hard_aug.ops.backend import Backend, takes_triton
from hard_aug.ops.warp_color import custom, reference
from hard_aug.ops.warp_color.checks import check_arguments, refusal
from hard_aug.ops.warp_color.reference import PaddingMode

__all__ = ["PaddingMode", "fold_normalization", "warp_color", "warp_color_normalized"]

_PADDING = {"zeros": 0, "border": 1, "reflection": 2}


def warp_color(
    images: Tensor,
    *,
    inverse_map: Tensor | None = None,
    displacement: Tensor | None = None,
    color_matrix: Tensor | None = None,
    partner: Tensor | None = None,
    partner_weight: Tensor | None = None,
    padding_mode: PaddingMode = "zeros",
    projective: bool = False,
    clamp: bool = False,
    dtype: torch.dtype | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Warp each image by its own map and displacement and recolour it by its own matrix.

    Args:
        images: `(B, C, H, W)`, floating point, or bytes, which stand for shares of 255. Any strides.
        inverse_map: `(B, 3, 3)` affine or projective maps from output to input positions, in pixels from the centre;
            None: the identity.
        displacement: `(B, 2, h, w)` pixels in x and in y, at least 4 control points on each axis; None: none.
        color_matrix: `(B, C, C + 1)`; a pixel `s` becomes `M[:, :C] @ s + M[:, C]`; None: colours stay.
        partner: `(B, C, H, W)` of the same type, mixed into the images before they are warped: `(1 - w) image + w
            partner`; None: nothing.
        partner_weight: `(B,)`, w.
        padding_mode: what is read outside the image.
        projective: whether the maps' last rows count. Otherwise they are taken to be (0, 0, 1), which is faster.
        clamp: clamp to [0, 1] at the end. The gradient passes as if nothing had been clamped.
        dtype: of the output, floating point; None: that of the images, float32 for bytes.
        backend: see `hard_aug.ops.backend`; None: that of the context.

    Returns:
        `(B, C, H, W)` in the memory format of `images`, contiguous or channels_last.

    The arithmetic is float32, or float64 where an argument is. Gradients: images yes, parameters yes, by `backward` and
    `torch.autograd.grad`; second order no. With the kernel that of the parameters is the same from run to run to the
    last bit; that of the images is not where they were gathered, and is refused under
    `torch.use_deterministic_algorithms(True)`.

    Raises:
        TypeError, ValueError: wrong types, shapes or numbers of samples, arguments on several devices.
        RuntimeError: `backend="triton"`, and the kernel does not serve: it takes 1, 3 or 4 channels, no float64.
    """
    return _outputs(
        images,
        inverse_map=inverse_map,
        displacement=displacement,
        color_matrix=color_matrix,
        partner=partner,
        partner_weight=partner_weight,
        normalization=None,
        padding_mode=padding_mode,
        projective=projective,
        clamp=clamp,
        dtype=dtype,
        backend=backend,
    )[0]


def warp_color_normalized(
    images: Tensor,
    *,
    normalization: Tensor,
    inverse_map: Tensor | None = None,
    displacement: Tensor | None = None,
    color_matrix: Tensor | None = None,
    partner: Tensor | None = None,
    partner_weight: Tensor | None = None,
    padding_mode: PaddingMode = "zeros",
    projective: bool = False,
    clamp: bool = False,
    dtype: torch.dtype | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, ...]:
    """`warp_color`, and the same images as one or two networks want them, in one pass.

    Args:
        normalization: `(N, 2, C)`, N of 1 or 2: mean and standard deviation of each channel, constants.

    Raises:
        TypeError, ValueError, RuntimeError: as `warp_color`.

    Returns:
        the images, and for each n `(images - mean) / std`, all `(B, C, H, W)` of one type. Gradients: through all.
    """
    if not isinstance(normalization, Tensor):
        raise TypeError(f"normalization is {type(normalization).__name__}: wanted a torch.Tensor of shape (N, 2, C)")
    return _outputs(
        images,
        inverse_map=inverse_map,
        displacement=displacement,
        color_matrix=color_matrix,
        partner=partner,
        partner_weight=partner_weight,
        normalization=normalization,
        padding_mode=padding_mode,
        projective=projective,
        clamp=clamp,
        dtype=dtype,
        backend=backend,
    )


def fold_normalization(color_matrix: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The colour matrix that also normalises: where one network alone sees the images, this costs no pass over them.

    Args:
        color_matrix: `(B, C, C + 1)`.
        mean, std: `(C,)`.

    Returns:
        `(B, C, C + 1)`, which takes a pixel to `(M s + o - mean) / std`.
    """
    centred = torch.cat((color_matrix[:, :, :-1], color_matrix[:, :, -1:] - mean[:, None]), dim=2)
    return centred / std[:, None]


def _outputs(
    images: Tensor,
    *,
    inverse_map: Tensor | None,
    displacement: Tensor | None,
    color_matrix: Tensor | None,
    partner: Tensor | None,
    partner_weight: Tensor | None,
    normalization: Tensor | None,
    padding_mode: PaddingMode,
    projective: bool,
    clamp: bool,
    dtype: torch.dtype | None,
    backend: Backend | None,
) -> tuple[Tensor, ...]:
    parameters = {
        "inverse_map": inverse_map,
        "displacement": displacement,
        "color_matrix": color_matrix,
        "partner_weight": partner_weight,
        "normalization": normalization,
    }
    check_arguments(images, parameters, partner=partner, padding_mode=padding_mode, dtype=dtype)
    kernel = takes_triton(backend, images.device, refusal(images, parameters, partner=partner, dtype=dtype))
    nothing = all(p is None for p in (*parameters.values(), partner)) and not clamp
    if nothing and images.is_floating_point() and dtype in (None, images.dtype):
        return (images,)
    normalization = None if normalization is None else normalization.detach()
    if not kernel:
        return reference.warp_color(
            images,
            inverse_map=inverse_map,
            displacement=displacement,
            color_matrix=color_matrix,
            partner=partner,
            partner_weight=partner_weight,
            normalization=normalization,
            padding_mode=padding_mode,
            projective=projective,
            clamp=clamp,
            dtype=dtype,
        )
    outputs = custom.warp_color(
        images,
        _plain(inverse_map),
        _plain(displacement),
        _plain(color_matrix),
        partner,
        _plain(partner_weight),
        _plain(normalization),
        _PADDING[padding_mode],
        projective,
        clamp,
        reference.output_dtype(images, dtype),
    )
    return tuple(outputs[: 1 if normalization is None else 1 + len(normalization)])


def _plain(parameter: Tensor | None) -> Tensor | None:
    """As the kernels read it."""
    return None if parameter is None else parameter.to(torch.float32).contiguous()
