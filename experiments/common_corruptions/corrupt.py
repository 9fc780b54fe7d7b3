"""All corruptions by name, on batches of 8-bit images."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from experiments.common_corruptions.blur import defocus_blur, zoom_blur
from experiments.common_corruptions.digital import jpeg_compression, pixelate
from experiments.common_corruptions.elastic import elastic_transform
from experiments.common_corruptions.glass import glass_blur
from experiments.common_corruptions.motion import motion_blur
from experiments.common_corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from experiments.common_corruptions.severities import Parameters, parameters, table_for
from experiments.common_corruptions.tone import brightness, contrast
from experiments.common_corruptions.weather import fog, frost, snow

#: Images `(B, C, H, W)` float32 in [0, 1], parameters and a generator to images that may leave [0, 1].
Corruption = Callable[[Tensor, Parameters, np.random.Generator], Tensor]

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}
#: Smallest edge of an image, pixels: kernels reach over 8.
SMALLEST = 16


def chunk(height: int, width: int) -> int:
    """Images that are corrupted at once; each such chunk has a generator of its own."""
    return max(1, min(256, 2**22 // (height * width)))


def corrupt(
    images: Tensor, corruption: str, severity: int, *, seed: int = 0, first: int = 0, table: str | None = None
) -> Tensor:
    """Corrupt images.

    Args:
        images: `(N, C, H, W)` uint8 on the CPU, 1 or 3 channels, from 16 pixels on.
        corruption: one of `NAMES`.
        severity: 1 to 5.
        seed: of the draws; each corruption and severity has its own.
        first: the number of the first image among all, a multiple of `chunk(H, W)`: parts corrupted one after the
            other are the same as the whole.
        table: of the published parameters; None: that of the nearest size, see `severities.table_for`.

    Returns:
        `(N, C, H, W)` uint8, cut off after the last bit as the published images are.

    Raises:
        ValueError: an unknown corruption, severity or table, or images of other type, channels or size.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images {images.dtype} {tuple(images.shape)}: wanted uint8 (N, 1 or 3, H, W)")
    height, width = images.shape[-2:]
    if min(height, width) < SMALLEST:
        raise ValueError(f"images of {height} x {width}: wanted at least {SMALLEST} pixels; give data.canvas")
    values = parameters(corruption, severity, table_for(min(height, width)) if table is None else table)
    size = chunk(height, width)
    if first % size:
        raise ValueError(f"first={first}: wanted a multiple of {size}, the images that are corrupted at once")
    changed = [images[:0]]
    for number, part in enumerate(images.split(size) if len(images) else (), first // size):
        generator = np.random.default_rng([seed % 2**63, zlib.crc32(corruption.encode()), severity, number])
        result = CORRUPTIONS[corruption](part.to(torch.float32) / 255, values, generator)
        # the small addend keeps what no corruption has touched: 255 * (k / 255) may be a hair below k
        changed.append((result.clamp(0, 1) * 255 + 1e-3).to(torch.uint8))
    return torch.cat(changed)
