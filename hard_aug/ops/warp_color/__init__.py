"""Warp and recolour a batch with one gather and one matrix per pixel.

Conventions (pinned by `tests/ops/test_warp_color.py`):

- Pixel centres are at integer + 1/2; coordinates are pixels from the image's centre, `x` to the right and `y` down,
  in the order `(x, y)`. In PyTorch's terms this is `align_corners=False`.
- `inverse_map` takes an *output* position to the *input* position that is sampled for it. With `projective=True` a
  position whose third coordinate is not positive lies behind the viewer, outside the image.
- `displacement` is added to the output position before the map: `input = M(q + d(q))`. It is given at the points of a
  coarse grid, and `d` is their uniform cubic B-spline over the image (free-form deformation: Rueckert et al., 1999).
  The basis is positive and sums to one, so no pixel moves further than the largest control value.
- Positions outside the image read zero by default; colour is applied after the warp, so it applies to that fill too.
- A map or a displacement may hold any values. A singular map samples along a line or at a point; a position that is
  not finite lies outside the image, to the right of and below it by its own size, and has no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hard_aug.ops.backend import Backend, use_triton
from hard_aug.ops.warp_color import custom, reference
from hard_aug.ops.warp_color.checks import check_arguments, unsupported_reason
from hard_aug.ops.warp_color.reference import PaddingMode

__all__ = ["PaddingMode", "warp_color"]


def warp_color(
    images: Tensor,
    *,
    inverse_map: Tensor | None = None,
    displacement: Tensor | None = None,
    color_matrix: Tensor | None = None,
    padding_mode: PaddingMode = "zeros",
    projective: bool = False,
    clamp: bool = False,
    dtype: torch.dtype | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """Warp each image by its own map and displacement and recolour it by its own matrix.

    Args:
        images: `(B, C, H, W)`, floating point, or uint8, which is divided by 255. Any strides.
        inverse_map: `(B, 3, 3)` affine or projective maps from output to input positions, in pixels from the centre;
            None: the identity.
        displacement: `(B, 2, h, w)` pixels in x and in y, at least 4 control points on each axis; None: none.
        color_matrix: `(B, C, C + 1)`; a pixel `s` becomes `M[:, :C] @ s + M[:, C]`; None: colours are unchanged.
        padding_mode: "zeros", "border" or "reflection": the values sampled outside the image.
        projective: whether the last rows of the maps are used. Otherwise they are assumed to be (0, 0, 1), which is
            faster.
        clamp: clamp the output to [0, 1]. The gradient passes through the clamp unchanged.
        dtype: floating-point type of the output; None: that of the images, float32 for uint8.
        backend: see `hard_aug.ops.backend`; None: that of the context.

    Returns:
        `(B, C, H, W)` in the memory format of `images`, contiguous or channels_last. `images` itself if there is
        nothing to do.

    The arithmetic is float32, or float64 where an argument is. Gradients: images yes, parameters yes, by `backward` and
    `torch.autograd.grad`; second order no. With the kernel the gradients of the parameters are bit-identical from run
    to run; that of warped images is not, and raises under `torch.use_deterministic_algorithms(True)`.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes or numbers of samples, arguments on several devices.
        RuntimeError: `backend="triton"`, and the kernel does not support the arguments: it requires 1, 3 or 4 channels
            and no float64.

    Example:
        >>> import torch
        >>> images = torch.arange(4.0).view(1, 1, 2, 2)
        >>> flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))[None]
        >>> warp_color(images, inverse_map=flip)
        tensor([[[[1., 0.],
                  [3., 2.]]]])
    """
    parameters = {"inverse_map": inverse_map, "displacement": displacement, "color_matrix": color_matrix}
    check_arguments(images, parameters, padding_mode=padding_mode, dtype=dtype)
    kernel = use_triton(backend, images.device, unsupported_reason(images, parameters, dtype=dtype))
    nothing = all(parameter is None for parameter in parameters.values()) and not clamp
    if nothing and images.is_floating_point() and dtype in (None, images.dtype):
        return images
    if not kernel:
        return reference.warp_color(
            images, **parameters, padding_mode=padding_mode, projective=projective, clamp=clamp, dtype=dtype
        )[0]
    given = [None if value is None else value.to(torch.float32).contiguous() for value in parameters.values()]
    dtype = reference.output_dtype(images, dtype)
    unused = (None, None, None)  # of the operator: the partner, its weight, and the normalisation
    outputs = custom.warp_color(images, *given, *unused, custom.PADDING[padding_mode], projective, clamp, dtype)
    return outputs[0]  # type: ignore[no-any-return]  # a custom op
