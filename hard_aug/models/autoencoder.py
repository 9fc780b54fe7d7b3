"""LatentCodec: any autoencoder of diffusers, between images in [0, 1] and latents.

| class of diffusers | latents of an image |
|---|---|
| `AutoencoderKL` | the posterior's mean |
| `AutoencoderTiny`, `VQModel` | the encoder's output |

`encode` and `decode` work on raw latents. Denoisers work on *scaled* ones, `(z - shift_factor) scaling_factor`, with
the two numbers read from the autoencoder's config (no shift and 1 where it has none).
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from hard_aug.models.finite import FiniteCheck

#: What is said of values that are not finite.
OVERFLOW = (
    "the autoencoder ({name}) {did} NaN or infinite values: it overflows in its precision, or its weights are broken; "
    "use autoencoder.float() or autoencoder.bfloat16() (those whose config has force_upcast overflow in float16)"
)


class LatentCodec:
    """Encodes and decodes in evaluation mode, without a gradient of the weights.

    Args:
        autoencoder: of diffusers. It is put in evaluation mode and frozen, for weights that want a gradient keep
            activations.

    Attributes:
        channels, latent_channels: of images and of latents.
        scaling_factor, shift_factor: of the latents that a denoiser takes.
        stride: pixels of an image for each latent, on both axes.

    Raises:
        TypeError: no autoencoder.
    """

    def __init__(self, autoencoder: nn.Module) -> None:
        config: Any = getattr(autoencoder, "config", None)
        if not isinstance(autoencoder, nn.Module) or not all(
            hasattr(config, name) for name in ("in_channels", "latent_channels")
        ):
            raise TypeError(
                "autoencoder: wanted one of diffusers (AutoencoderKL, AutoencoderTiny), got "
                f"{type(autoencoder).__name__}"
            )
        self.autoencoder, self.config = autoencoder.eval().requires_grad_(False), config
        self.channels, self.latent_channels = int(config.in_channels), int(config.latent_channels)
        self.scaling_factor = float(getattr(config, "scaling_factor", None) or 1.0)
        self.shift_factor = float(getattr(config, "shift_factor", None) or 0.0)
        tiny: Any = getattr(config, "encoder_block_out_channels", (1,))
        stages: Any = getattr(config, "block_out_channels", None) or tiny
        self.stride = 2 ** (len(stages) - 1)
        name = type(autoencoder).__name__
        self._encoded = FiniteCheck(OVERFLOW.format(name=name, did="made latents with"))
        self._decoded = FiniteCheck(OVERFLOW.format(name=name, did="decoded images with"))

    def check_channels(self, channels: int) -> None:
        """Raise `ValueError` for images of other channels."""
        if channels != self.channels:
            raise ValueError(
                f"the autoencoder takes images of {self.channels} channels, got {channels}; for grey images "
                "and an autoencoder of colours wrap both networks to take grey ones, and repeat the channel"
            )

    def check_size(self, height: int, width: int) -> None:
        """Raise `ValueError` for images that the stride does not divide."""
        if height % self.stride or width % self.stride:
            wanted = tuple(math.ceil(size / self.stride) * self.stride for size in (height, width))
            raise ValueError(
                f"images of {height} x {width}: the autoencoder's stride of {self.stride} does not divide that; pad "
                f"them to {wanted[0]} x {wanted[1]}"
            )

    def encode(self, images: Tensor) -> Tensor:
        """Raw latents of images in [0, 1], `(B, latent channels, h, w)` float32. Gradients: images yes.

        Raises:
            ValueError: images on another device, or float16 weights that the config says overflow.
            FloatingPointError: latents that are not finite; on a GPU at the first call of a shape, later see `faults`.
        """
        weight = self._weight(images)
        encoded = self.autoencoder.encode((2 * images - 1).to(weight.dtype))  # type: ignore[operator]  # of diffusers
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return self._encoded(cast(Tensor, latents).float())

    def encode_in_parts(self, images: Tensor, size: int) -> Tensor:
        """`encode`, of so many images at once."""
        return torch.cat([self.encode(part) for part in torch.split(images, size)])

    def decode(self, latents: Tensor) -> Tensor:
        """Images, about in [0, 1], `(B, C, H, W)` float32, of raw latents. Gradients: latents yes.

        Raises:
            ValueError: as `encode`.
            FloatingPointError: images that are not finite; on a GPU at the first call of a shape, later see `faults`.
        """
        weight = self._weight(latents)
        decoded = self.autoencoder.decode(latents.to(weight.dtype)).sample  # type: ignore[operator]  # of diffusers
        return (self._decoded(cast(Tensor, decoded).float()) + 1) / 2

    def faults(self) -> list[str]:
        """What was not finite on a GPU since the last call, and not said yet. Waits for the device."""
        return [*self._encoded.faults(), *self._decoded.faults()]

    def scaled(self, latents: Tensor) -> Tensor:
        """What a denoiser takes, from raw latents."""
        return (latents - self.shift_factor) * self.scaling_factor

    def unscaled(self, latents: Tensor) -> Tensor:
        """Raw latents, from what a denoiser takes."""
        return latents / self.scaling_factor + self.shift_factor

    def _weight(self, given: Tensor) -> Tensor:
        weight = next(self.autoencoder.parameters())
        if given.device != weight.device:
            raise ValueError(
                f"the autoencoder is on {weight.device} and the images are on {given.device}; move it with "
                f"autoencoder.to('{given.device}')"
            )
        if weight.dtype == torch.float16 and getattr(self.config, "force_upcast", False):
            raise ValueError(
                "the autoencoder's config says that it overflows in float16 (force_upcast); use autoencoder.float() or "
                "autoencoder.bfloat16()"
            )
        return weight
