"""Snow, frost and fog.

The published frost overlays photographs of frosted glass. Here a texture replaces them (`frost_texture`): needles that
grow in a few directions, in patches, on a thin film of ice, bright and slightly blue. The weights of image and frost
are the published ones; the patterns and the exact brightness are not.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hard_aug.evaluation.corruptions.blur import clipped_zoom
from hard_aug.evaluation.corruptions.motion import along_line
from hard_aug.evaluation.corruptions.plasma import plasma
from hard_aug.evaluation.corruptions.severities import Parameters

#: Weights of red, green and blue in the luminance (ITU-R BT.601).
LUMINANCE = (0.299, 0.587, 0.114)
#: Number of directions in which the needles of one frost grow, and the colour of thin ice.
DIRECTIONS, ICE = 5, (0.86, 0.94, 1.0)


def _grey(images: Tensor) -> Tensor:
    return (
        images if images.shape[1] == 1 else (images * images.new_tensor(LUMINANCE)[:, None, None]).sum(1, keepdim=True)
    )


def snow(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Make the image paler and add motion-blurred flakes twice, the second time rotated by 180 degrees."""
    mean, deviation, zoom, threshold, radius, spread, weight = parameters
    count, _, height, width = images.shape
    flakes = torch.from_numpy(generator.normal(mean, deviation, (count, 1, height, width)).astype(np.float32))
    flakes = clipped_zoom(flakes, zoom)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    flakes = torch.floor(flakes * 255) / 255
    angles = torch.from_numpy(generator.uniform(-135, -45, count))
    fallen = along_line(flakes, radius=radius, deviation=spread, angles=angles)
    pale = weight * images + (1 - weight) * torch.maximum(images, 1.5 * _grey(images) + 0.5)
    return pale + fallen + fallen.flip(-2, -1)


def frost_texture(count: int, size: int, generator: np.random.Generator) -> Tensor:
    """Draw frost textures, `(count, 3, size, size)` in [0, 1]."""
    needles = torch.zeros(count, 1, size, size, dtype=torch.float32, device="cpu")
    length = max(3.0, size / 14)
    for _ in range(DIRECTIONS):
        noise = torch.from_numpy(generator.standard_normal((count, 1, size, size), dtype=np.float32))
        angles = torch.from_numpy(generator.uniform(0, 360, count))
        streaks = along_line(noise, radius=length, deviation=length, angles=angles)
        streaks = streaks / streaks.std((-2, -1), keepdim=True)
        where = plasma(count, size, 2.2, generator)[:, None]
        grown = torch.sigmoid(3 * (streaks - 0.9)) * torch.sigmoid(14 * (where - 0.5))
        needles = torch.maximum(needles, grown)
    film = plasma(count, size, 1.9, generator)[:, None]
    ice = (0.15 + 0.5 * film + 0.75 * needles).clamp(0, 1)
    # thick ice is white, thin ice is bluish
    tint = ice.new_tensor(ICE)[:, None, None]
    return ice * (tint + (1 - tint) * ice)


def frost(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Overlay a frost texture."""
    kept, added = parameters
    height, width = images.shape[-2:]
    texture = frost_texture(len(images), max(height, width), generator)[..., :height, :width]
    return kept * images + added * (texture if images.shape[1] == 3 else _grey(texture))


def fog(images: Tensor, parameters: Parameters, generator: np.random.Generator) -> Tensor:
    """Add a height map, and scale the sum to the highest value of the image."""
    amount, decay = parameters
    height, width = images.shape[-2:]
    mist = plasma(len(images), max(height, width), decay, generator)[:, None, :height, :width]
    highest = images.amax((1, 2, 3), keepdim=True)
    return (images + amount * mist) * highest / (highest + amount)
