"""Standard normal noise for a batch of images, each drawn from a seed of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def noise_from_seeds(seeds: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Draw standard normal numbers `(B, *shape)`; each row depends on its own seed alone, not on the batch.

    Args:
        seeds: `(B,)` integers >= 0.
        shape: shape of a row.
        device: device of the result; the numbers are drawn on the CPU.
    """
    return randn_rows([torch.Generator().manual_seed(int(seed)) for seed in seeds], shape).to(device)


def randn_rows(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Draw standard normal numbers `(B, *shape)`, float32 on the CPU, one row from each generator.

    Args:
        generators: one CPU generator for each row.
        shape: shape of a row.
    """
    rows = [
        torch.randn(shape, generator=generator, dtype=torch.float32, device=generator.device)
        for generator in generators
    ]
    return torch.stack(rows) if rows else torch.zeros(0, *shape, dtype=torch.float32, device="cpu")


def derive_seed(seed: int, stream: int) -> int:
    """Return the seed of a further random stream of an image.

    The seeds of a batch are often consecutive numbers; derived seeds are far from them and from each other.

    Args:
        seed: seed of the image.
        stream: number of the stream, from 1.
    """
    return (int(seed) * 0x9E3779B97F4A7C15 + stream * 0xBF58476D1CE4E5B9) % 2**63


def match_norm(noise: Tensor, like: Tensor) -> Tensor:
    """Scale each row of `noise` to the norm of the row of `like`: standard normal vectors lie close to a sphere.

    Args:
        noise: `(B, c, h, w)`.
        like: `(B, c, h, w)`.
    """
    target, norm = (t.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for t in (like, noise))
    return noise * (target / norm.clamp(min=1e-12))  # type: ignore[no-any-return]  # of tensors
