"""LatentCodec: diffusers' autoencoders of images, between images in [0, 1] and latents.

| class of diffusers | latents of an image |
|---|---|
| `AutoencoderKL`, `AsymmetricAutoencoderKL`, `AutoencoderKLHunyuanImage` | mean of the posterior |
| `AutoencoderTiny`, `AutoencoderDC`, `VQModel` | output of the encoder |

`encode` and `decode` work on raw latents. Denoisers work on *scaled* ones, `(z - shift_factor) scaling_factor`, or
`(z - latents_mean) scaling_factor / latents_std` for each channel, whichever the autoencoder's config has.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from hard_aug.generative.autoencoder_settings import LatentScale, check_autoencoder, stride_of
from hard_aug.generative.finite import FiniteCheck

#: Error message for values that are not finite.
OVERFLOW = (
    "the autoencoder ({name}) {did} NaN or infinite values: it overflows in its precision, or its weights are broken; "
    "use autoencoder.float() or autoencoder.bfloat16() (those whose config has force_upcast overflow in float16)"
)


class LatentCodec:
    """Encoder and decoder in evaluation mode, frozen.

    Args:
        autoencoder: autoencoder of diffusers. It is put in evaluation mode and frozen, since weights that require a
            gradient keep activations.

    Attributes:
        channels: channels of the images.
        latent_channels: channels of the latents.
        latent_scale: mean and scale of the latents that a denoiser takes.
        stride: pixels of an image per latent, on both axes.

    Raises:
        TypeError: `autoencoder` is not an autoencoder of diffusers, or one of a kind that is not served.
        ValueError: a setting of its config is not served.
    """

    def __init__(self, autoencoder: nn.Module) -> None:
        check_autoencoder(autoencoder)
        self.latent_scale = LatentScale.of(autoencoder)
        config: Any = autoencoder.config
        self.autoencoder, self.config = autoencoder.eval().requires_grad_(False), config
        self.channels = int(config.in_channels)
        self.latent_channels = int(getattr(config, "vq_embed_dim", None) or config.latent_channels)
        self.stride = stride_of(config)
        name = type(autoencoder).__name__
        self._latents_check = FiniteCheck(OVERFLOW.format(name=name, did="encoded latents with"))
        self._images_check = FiniteCheck(OVERFLOW.format(name=name, did="decoded images with"))

    def __repr__(self) -> str:
        return f"LatentCodec({type(self.autoencoder).__name__})"

    def check_channels(self, channels: int) -> None:
        """Raise `ValueError` if images have another number of channels."""
        if channels != self.channels:
            raise ValueError(
                f"the autoencoder takes images of {self.channels} channels, got {channels}; for grayscale images and "
                "an autoencoder of colour images repeat the channel, and wrap both networks to average the channels"
            )

    def check_size(self, height: int, width: int) -> None:
        """Raise `ValueError` if the stride does not divide the size of the images."""
        if height % self.stride or width % self.stride:
            expected = tuple(math.ceil(size / self.stride) * self.stride for size in (height, width))
            raise ValueError(
                f"images of {height} x {width}: the autoencoder's stride of {self.stride} does not divide that; pad "
                f"them to {expected[0]} x {expected[1]}"
            )

    def encode(self, images: Tensor) -> Tensor:
        """Encode images in [0, 1] to raw latents, `(B, latent channels, h, w)` float32.

        Gradients: images yes.

        Args:
            images: `(B, C, H, W)` in [0, 1].

        Raises:
            ValueError: the images are on another device, or the config says that the float16 weights overflow.
            FloatingPointError: the latents are not finite. On a GPU this raises at the first call of a shape, later see
                `pop_nonfinite_reports`.
        """
        weight = self._check_weight(images)
        encoded = self.autoencoder.encode((2 * images.float() - 1).to(weight.dtype))  # type: ignore[operator]  # of diffusers
        if hasattr(encoded, "latent_dist"):
            latents = encoded.latent_dist.mode()
        else:
            latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent
        return self._latents_check(cast(Tensor, latents).float())

    def encode_in_batches(self, images: Tensor, batch_size: int) -> Tensor:
        """Encode `batch_size` images at a time; see `encode`.

        Args:
            images: `(N, C, H, W)` in [0, 1].
            batch_size: number of images at a time.
        """
        return torch.cat([self.encode(part) for part in torch.split(images, batch_size)])

    def decode(self, latents: Tensor) -> Tensor:
        """Decode raw latents to images `(B, C, H, W)` float32, about in [0, 1].

        Gradients: latents yes.

        Args:
            latents: `(B, latent channels, h, w)`.

        Raises:
            ValueError: see `encode`; or decoded images are not of the size of encoded ones.
            FloatingPointError: the images are not finite. On a GPU this raises at the first call of a shape, later see
                `pop_nonfinite_reports`.
        """
        weight = self._check_weight(latents)
        decoded = self.autoencoder.decode(latents.to(weight.dtype)).sample  # type: ignore[operator]  # of diffusers
        expected = (len(latents), self.channels, *(size * self.stride for size in latents.shape[-2:]))
        if decoded.shape != expected:
            raise ValueError(
                f"{type(self.autoencoder).__name__} decoded images of shape {tuple(decoded.shape)}: expected "
                f"{expected}, that of the images with these latents"
            )
        return (self._images_check(cast(Tensor, decoded).float()) + 1) / 2

    def pop_nonfinite_reports(self) -> list[str]:
        """Return and clear the reports of non-finite values on a GPU since the last call; synchronises with it."""
        return [*self._latents_check.pop_nonfinite_reports(), *self._images_check.pop_nonfinite_reports()]

    def scale(self, latents: Tensor) -> Tensor:
        """Convert raw latents to the scaled ones that a denoiser takes."""
        return self.scale_on(latents.device).scale(latents)

    def unscale(self, latents: Tensor) -> Tensor:
        """Convert scaled latents to raw ones."""
        return self.scale_on(latents.device).unscale(latents)

    def scale_on(self, device: torch.device) -> LatentScale:
        """Return `latent_scale` on a device, where it stays."""
        if self.latent_scale.device not in (None, device):
            with torch.inference_mode(False):  # it may be used in training later
                self.latent_scale = self.latent_scale.to(device)
        return self.latent_scale

    def _check_weight(self, inputs: Tensor) -> Tensor:
        """Return a weight, whose device and dtype have been checked."""
        if self.autoencoder.training:  # because a module that holds it was put in training mode since
            self.autoencoder.eval()
        weight = next(self.autoencoder.parameters())
        if inputs.device != weight.device:
            raise ValueError(
                f"the autoencoder is on {weight.device} and the images are on {inputs.device}; move it with "
                f"autoencoder.to('{inputs.device}')"
            )
        if weight.dtype == torch.float16 and getattr(self.config, "force_upcast", False):
            raise ValueError(
                "the autoencoder's config says that it overflows in float16 (force_upcast); use autoencoder.float() or "
                "autoencoder.bfloat16()"
            )
        return weight
