"""Launch of the warp-and-colour kernels: tiles, grids and buffers. Imports triton; imported at the first launch."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from hard_aug.ops.backend import on_device_of
from hard_aug.ops.warp_color import triton as kernels
from hard_aug.ops.warp_color.reference import spline_basis

#: Pixels of a tile, and warps: the fastest of those measured on an H100.
FORWARD_TILE = (256, 2)
#: The same of the backward pass, which depends on the number of pixels of an image.
SMALL_IMAGE, SMALL_BACKWARD_TILE, BACKWARD_TILE = 64 * 64, (256, 4), (128, 2)
#: Width of a tile: 128 bytes of float32.
TILE_WIDTH = 32
#: Backward: tiles per program, and the maximum number of programs per sample, which takes precedence.
TILES_PER_PROGRAM, MAX_PROGRAMS = 8, 16


def backward_tile(height: int, width: int) -> tuple[int, int]:
    """Return the pixels of a tile of the backward pass and the warps: a function of the image size alone."""
    return SMALL_BACKWARD_TILE if height * width <= SMALL_IMAGE else BACKWARD_TILE


def tiling(height: int, width: int, pixels: int) -> tuple[int, int, int, int]:
    """Return the height and width of a tile of `pixels` pixels, the tiles in a row, and the tiles of an image."""
    tile_width = min(triton.next_power_of_2(width), TILE_WIDTH)
    tile_height = pixels // tile_width
    across = triton.cdiv(width, tile_width)
    return tile_height, tile_width, across, across * triton.cdiv(height, tile_height)


def programs_for(tiles: int) -> int:
    """Return the number of programs that share the tiles of a sample: a function of the image size alone."""
    return min(-(-tiles // TILES_PER_PROGRAM), MAX_PROGRAMS)


def forward(
    images: Tensor,
    parts: dict[str, Tensor | None],
    outputs: tuple[Tensor, Tensor, Tensor],
    *,
    padding: int,
    projective: bool,
    clamp: bool,
) -> None:
    """Fill `outputs`, of which the normalised ones may be empty; `parts` are the optional tensors, by name."""
    height, width = images.shape[2:]
    pixels, warps = FORWARD_TILE
    tile_height, tile_width, across, tiles = tiling(height, width, pixels)
    norms = parts["normalization"]
    with on_device_of(images):
        kernels._forward[(len(images) * tiles,)](
            **_common(images, parts, padding=padding, projective=projective),
            first=outputs[0],
            second=outputs[1],
            third=outputs[2],
            out_strides=outputs[0].stride(),
            tiles_across=across,
            tiles=tiles,
            NORMS=0 if norms is None else len(norms),
            CLAMP=clamp,
            TILE_HEIGHT=tile_height,
            TILE_WIDTH=tile_width,
            num_warps=warps,
        )


def backward(
    images: Tensor,
    parts: dict[str, Tensor | None],
    upstream: tuple[Tensor | None, Tensor | None, Tensor | None],
    needed: dict[str, bool],
    *,
    padding: int,
    projective: bool,
) -> dict[str, Tensor]:
    """Return the gradients that are `needed`, by argument, as new tensors."""
    batch, channels, height, width = images.shape
    pixels, warps = backward_tile(height, width)
    tile_height, tile_width, across, tiles = tiling(height, width, pixels)
    programs = programs_for(tiles)
    counts = {"inverse_map": 9, "color_matrix": channels * (channels + 1), "partner_weight": 1}
    sums = {
        name: images.new_empty((batch, programs, count) if needed[name] else 0, dtype=torch.float32)
        for name, count in counts.items()
    }
    field = images.new_empty((batch, 2, height, width) if needed["displacement"] else 0, dtype=torch.float32)
    gathers = parts["inverse_map"] is not None or parts["displacement"] is not None
    make = torch.zeros_like if gathers else torch.empty_like  # the scatter of a gather accumulates
    image_sums = {
        name: make(images, dtype=torch.float32, memory_format=torch.contiguous_format)
        for name in ("images", "partner")
        if needed[name]
    }
    one = next(iter(image_sums.values()), images)
    strides = [images.stride() if g is None else g.stride() for g in upstream]
    with on_device_of(images):
        kernels._backward[(batch * programs,)](
            **_common(images, parts, padding=padding, projective=projective),
            first=images if upstream[0] is None else upstream[0],
            second=images if upstream[1] is None else upstream[1],
            third=images if upstream[2] is None else upstream[2],
            map_sums=sums["inverse_map"],
            color_sums=sums["color_matrix"],
            weight_sums=sums["partner_weight"],
            field=field,
            image_gradient=image_sums.get("images", one),
            partner_gradient=image_sums.get("partner", one),
            first_strides=strides[0],
            second_strides=strides[1],
            third_strides=strides[2],
            gradient_strides=one.stride(),
            tiles_across=across,
            tiles=tiles,
            programs=programs,
            FIRST=upstream[0] is not None,
            SECOND=upstream[1] is not None,
            THIRD=upstream[2] is not None,
            NEED_MAP=needed["inverse_map"],
            NEED_FIELD=needed["displacement"],
            NEED_COLOR=needed["color_matrix"],
            NEED_WEIGHT=needed["partner_weight"],
            NEED_IMAGES=needed["images"],
            NEED_PARTNER=needed["partner"],
            MAP_ROWS=3 if projective else 2,
            TILE_HEIGHT=tile_height,
            TILE_WIDTH=tile_width,
            num_warps=warps,
        )
    found = {name: image.to(images.dtype) for name, image in image_sums.items()}
    for name, total in sums.items():
        part = parts[name]
        if needed[name] and part is not None:
            total = total.sum(1) if programs > 1 else total
            found[name] = total.view(part.shape)
    control = parts["displacement"]
    if needed["displacement"] and control is not None:
        rows, columns = control.shape[2:]
        with torch.autocast(
            images.device.type, enabled=False
        ):  # the backward pass may run inside the caller's autocast
            down, right = spline_basis(rows, height, control), spline_basis(columns, width, control)
            found["displacement"] = down.mT @ field @ right
    return found


def _common(images: Tensor, parts: dict[str, Tensor | None], *, padding: int, projective: bool) -> dict[str, Any]:
    """Return the arguments of both kernels; the images stand in for a pointer that is not read."""
    channels, height, width = images.shape[1:]
    control, partner = parts["displacement"], parts["partner"]
    return {
        "images": images,
        "partner": images if partner is None else partner,
        "theta": _or(parts["inverse_map"], images),
        "control": _or(control, images),
        "color": _or(parts["color_matrix"], images),
        "weight": _or(parts["partner_weight"], images),
        "norms": _or(parts["normalization"], images),
        "image_strides": images.stride(),
        "partner_strides": (images if partner is None else partner).stride(),
        "height": height,
        "width": width,
        "rows": 0 if control is None else control.shape[2],
        "columns": 0 if control is None else control.shape[3],
        "C": channels,
        "PADDING": padding,
        "MAP": parts["inverse_map"] is not None,
        "PROJECTIVE": projective and parts["inverse_map"] is not None,
        "DISPLACED": control is not None,
        "COLORED": parts["color_matrix"] is not None,
        "MIXED": partner is not None,
        "SCALE": 1 / 255 if images.dtype == torch.uint8 else 1.0,
    }


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    return other if tensor is None else tensor
