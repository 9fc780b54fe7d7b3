"""Principal directions of an autoencoder's latents: the edits that real images differ by, found without a label.

The k-th is the k-th principal component of the latents of some images, scaled so that a step of 1 is one standard
deviation of the images along it (after GANSpace, arXiv:2004.02546, which does so in the latents of GANs). The first
ones tend to be what fills most of an image: its lightness, or the colour of its background.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hard_aug.models.autoencoder import LatentCodec


@torch.no_grad()
def latent_directions(
    autoencoder: nn.Module, images: Tensor, count: int = 16, *, batch_size: int = 64, seed: int = 0
) -> Tensor:
    """`(count, c, h, w)` float32, for `VAELatent(directions=...)`, from the largest spread to the smallest.

    Args:
        autoencoder: of diffusers, on the images' device.
        images: `(N, C, H, W)` in [0, 1]; some hundreds to some thousands.
        count: K, from 1 to less than N.
        batch_size: images that are encoded at once.
        seed: of the randomised decomposition (`torch.pca_lowrank`).

    Raises:
        ValueError: too few images for so many directions.
    """
    if not 1 <= count < len(images):
        raise ValueError(f"count={count} directions of {len(images)} images: wanted at least 1, and more images")
    codec = LatentCodec(autoencoder)
    codec.check_channels(images.shape[1])
    codec.check_size(*images.shape[-2:])
    latents = codec.encode_in_parts(images, batch_size)
    rows = latents.flatten(1)
    rank = min(count + 8, *rows.shape)  # a few more than wanted make the wanted ones exact
    with torch.random.fork_rng(devices=[rows.device] if rows.is_cuda else []):
        torch.manual_seed(seed)
        _, spread, components = torch.pca_lowrank(rows, rank, niter=4)
    scaled = components[:, :count] * spread[:count] / (len(rows) - 1) ** 0.5
    directions: Tensor = scaled.T.reshape(count, *latents.shape[1:]).contiguous()
    return directions
