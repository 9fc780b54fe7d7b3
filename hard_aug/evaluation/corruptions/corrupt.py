"""All corruptions by name, for batches of 8-bit images."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hard_aug.evaluation.corruptions.blur import defocus_blur, zoom_blur
from hard_aug.evaluation.corruptions.digital import jpeg_compression, pixelate
from hard_aug.evaluation.corruptions.elastic import elastic_transform
from hard_aug.evaluation.corruptions.glass import glass_blur
from hard_aug.evaluation.corruptions.motion import motion_blur
from hard_aug.evaluation.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from hard_aug.evaluation.corruptions.severities import Parameters, parameters, table_for
from hard_aug.evaluation.corruptions.tone import brightness, contrast
from hard_aug.evaluation.corruptions.weather import fog, frost, snow

#: Maps images `(B, C, H, W)` float32 in [0, 1], parameters and a generator to images that may leave [0, 1].
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
#: Minimum height and width of an image, pixels: kernels reach over 8.
SMALLEST = 16


def chunk(height: int, width: int) -> int:
    """Return how many images of a size are corrupted at once; each such chunk has its own random generator."""
    return max(1, min(256, 2**22 // (height * width)))


def corrupt(
    images: Tensor, corruption: str, severity: int, *, seed: int = 0, first: int = 0, table: str | None = None
) -> Tensor:
    """Apply one corruption at one severity to 8-bit images.

    Args:
        images: `(N, C, H, W)` uint8 on the CPU, 1 or 3 channels, at least 16 x 16 pixels.
        corruption: one of `NAMES`.
        severity: 1 to 5.
        seed: of the random numbers, which also depend on the corruption and the severity.
        first: index of the first image within a larger set, a multiple of `chunk(H, W)`: chunks corrupted one after
            another give the same result as the whole set.
        table: of published parameters, `cifar`, `tiny_imagenet` or `imagenet`; None: that of the nearest image size,
            see `severities.table_for`.

    Returns:
        `(N, C, H, W)` uint8, truncated to 8 bits as the published images are.

    Raises:
        ValueError: an unknown corruption, severity or table, or images of another type, number of channels or size.

    Example:
        >>> import torch
        >>> from hard_aug.evaluation import corrupt
        >>> images = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
        >>> int(corrupt(images, "brightness", severity=3)[0, 0, 0, 0])  # 0.15 * 255 is added
        138
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images {images.dtype} {tuple(images.shape)}: expected uint8 (N, 1 or 3, H, W)")
    height, width = images.shape[-2:]
    if min(height, width) < SMALLEST:
        raise ValueError(f"images of {height} x {width}: expected at least {SMALLEST} pixels; pad or resize them")
    values = parameters(corruption, severity, table_for(min(height, width)) if table is None else table)
    size = chunk(height, width)
    severity, seed, first = int(severity), int(seed), int(first)
    if first % size:
        raise ValueError(f"first={first}: expected a multiple of {size}, the number of images in a chunk")
    changed = [images[:0]]
    for number, part in enumerate(torch.split(images, size) if len(images) else (), first // size):
        generator = np.random.default_rng([seed % 2**63, zlib.crc32(corruption.encode()), severity, number])
        result = CORRUPTIONS[corruption](part.to(torch.float32) / 255, values, generator)
        # the small addend preserves values that no corruption has changed: 255 * (k / 255) may be slightly below k
        changed.append((result.clamp(0, 1) * 255 + 1e-3).to(torch.uint8))
    return torch.cat(changed)
