"""Principal directions of an autoencoder's latents: the main axes along which real images differ, without labels.

The k-th direction is the k-th principal component of the latents of some images, scaled so that a step of 1 is one
standard deviation of the images along it (after GANSpace, arXiv:2004.02546, which does so for GANs). The first
components tend to describe large areas, such as brightness or background colour.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hard_aug.generative.latent_codec import LatentCodec
from hard_aug.utils.checks import as_seed


@torch.no_grad()
def latent_directions(
    autoencoder: nn.Module, images: Tensor, count: int = 16, *, batch_size: int = 64, seed: int = 0
) -> Tensor:
    """Compute principal directions for `VAELatent(directions=...)`, in order of decreasing variance.

    Args:
        autoencoder: autoencoder of diffusers, on the images' device.
        images: `(N, C, H, W)` in [0, 1]; some hundreds to some thousands.
        count: number K of directions, from 1 to less than N.
        batch_size: images that are encoded at once.
        seed: seed of the randomised decomposition (`torch.pca_lowrank`).

    Returns:
        `(count, c, h, w)` float32.

    Raises:
        ValueError: too few images for this number of directions.

    Example:
        >>> import diffusers
        >>> autoencoder = diffusers.AutoencoderTiny()
        >>> latent_directions(autoencoder, torch.rand(6, 3, 16, 16), 3).shape
        torch.Size([3, 4, 2, 2])
    """
    if not 1 <= count < len(images):
        raise ValueError(f"count={count} directions of {len(images)} images: expected at least 1, and more images")
    count = int(count)
    codec = LatentCodec(autoencoder)
    codec.check_channels(images.shape[1])
    codec.check_size(*images.shape[-2:])
    latents = codec.encode_in_batches(images, int(batch_size))
    rows = latents.flatten(1).cpu()  # where the random numbers are the same whatever the device
    rank = min(count + 8, *rows.shape)  # a higher rank than requested makes the requested components accurate
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(as_seed(seed))  # torch.manual_seed would also reseed the GPUs' generators
        _, singular_values, components = torch.pca_lowrank(rows, rank, niter=4)
    scaled = components[:, :count] * singular_values[:count] / (len(rows) - 1) ** 0.5
    return scaled.T.reshape(count, *latents.shape[1:]).contiguous().to(latents.device)  # type: ignore[no-any-return]  # of tensors
