"""What each setting of diffusers' autoencoders does here: all are accounted for, by name."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hard_aug.generative.known_settings import names, unknown_settings

#: Settings of the networks, which act inside of `encode` and `decode`.
OF_THE_NETWORKS = names(
    "down_block_types up_block_types block_out_channels layers_per_block act_fn norm_num_groups norm_type "
    "use_quant_conv use_post_quant_conv mid_block_add_attention num_vq_embeddings down_block_out_channels "
    "up_block_out_channels layers_per_down_block layers_per_up_block encoder_block_out_channels "
    "decoder_block_out_channels upsample_fn num_encoder_blocks num_decoder_blocks attention_head_dim "
    "encoder_block_types decoder_block_types encoder_layers_per_block decoder_layers_per_block "
    "encoder_qkv_multiscales decoder_qkv_multiscales upsample_block_type downsample_block_type decoder_norm_types "
    "decoder_act_fns encoder_out_shortcut decoder_in_shortcut decoder_conv_act_fn downsample_match_channel "
    "upsample_match_channel"
)
#: Settings that are applied here, or checked.
APPLIED = names(
    "in_channels out_channels latent_channels vq_embed_dim scaling_factor shift_factor latents_mean latents_std "
    "force_upcast spatial_compression_ratio upsampling_scaling_factor"
)
#: Settings that matter to what is not used, and what that is.
WITHOUT_EFFECT = {
    "sample_size": "the size of tiles",
    "latent_magnitude": "AutoencoderTiny.forward, which stores latents as bytes",
    "latent_shift": "AutoencoderTiny.forward, which stores latents as bytes",
    "lookup_from_codebook": "VQModel.decode of indices of the codebook",
}
#: The classes that are served; others of diffusers encode videos or sound, or decode by sampling.
SERVED = (
    "AutoencoderKL",
    "AsymmetricAutoencoderKL",
    "AutoencoderTiny",
    "AutoencoderDC",
    "AutoencoderKLHunyuanImage",
    "VQModel",
)


def check_autoencoder(autoencoder: object) -> None:
    """Check that an autoencoder is served, with its settings.

    Raises:
        TypeError: no autoencoder of diffusers, or one of another kind.
        ValueError: a setting that changes results and is not served.
    """
    config: Any = getattr(autoencoder, "config", None)
    kind = next((c.__name__ for c in type(autoencoder).__mro__ if c.__name__ in SERVED), None)
    duck = all(hasattr(config, name) for name in ("in_channels", "latent_channels"))
    foreign = kind is None and type(autoencoder).__module__.startswith("diffusers.")
    if not isinstance(autoencoder, nn.Module) or foreign or (kind is None and not duck):
        raise TypeError(
            f"autoencoder: expected one of diffusers, of images ({', '.join(SERVED)}), got {type(autoencoder).__name__}"
        )
    name, out_channels = type(autoencoder).__name__, getattr(config, "out_channels", config.in_channels)
    if out_channels != config.in_channels:
        raise ValueError(
            f"{name} has in_channels={config.in_channels} and out_channels={out_channels}: expected one number, that "
            "of the images"
        )
    if getattr(config, "upsampling_scaling_factor", 2) != 2:
        raise ValueError(
            f"{name} has upsampling_scaling_factor={config.upsampling_scaling_factor}: expected 2, so that decoded "
            "images have the size of the encoded ones"
        )
    if kind is None:
        return
    known = OF_THE_NETWORKS | APPLIED | WITHOUT_EFFECT.keys()
    for key, (value, _) in unknown_settings(autoencoder, known).items():  # most only describe the network
        warnings.warn(
            f"{name} has {key}={value!r}, a setting that is not known here: images could differ from those of the "
            "pipelines of diffusers",
            stacklevel=4,
        )


def stride_of(config: Any) -> int:
    """Return the pixels of an image per latent, on both axes."""
    ratio = getattr(config, "spatial_compression_ratio", None)
    if ratio is not None:
        return int(ratio)
    candidates = ("encoder_block_out_channels", "down_block_out_channels", "block_out_channels")
    stages: Any = next(filter(None, (getattr(config, name, None) for name in candidates)), (1,))
    return int(2 ** (len(stages) - 1))


@dataclass(frozen=True, eq=False)
class LatentScale:
    """The scaled latents that a denoiser takes, `(z - mean) factor / std`, from raw ones, `z`.

    Attributes:
        factor: `scaling_factor`.
        mean: `shift_factor`, or `(c, 1, 1)`: `latents_mean`.
        std: 1, or `(c, 1, 1)`: `latents_std`.
    """

    factor: float = 1.0
    mean: Tensor | float = 0.0
    std: Tensor | float = 1.0

    @classmethod
    def of(cls, autoencoder: nn.Module) -> LatentScale:
        """Read an autoencoder's config.

        Raises:
            ValueError: numbers that do not fit together.
        """
        config: Any = autoencoder.config
        factor, shift, mean, std = (
            getattr(config, name, None) for name in ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
        )
        name, channels = type(autoencoder).__name__, int(config.latent_channels)
        factor = 1.0 if factor is None else float(factor)
        if mean is None and std is None:
            return cls(factor, float(shift or 0.0))
        if mean is None or std is None or shift or not len(mean) == len(std) == channels:
            raise ValueError(
                f"{name} has latents_mean={mean}, latents_std={std} and shift_factor={shift}: expected a mean and a "
                f"standard deviation of each of {channels} channels without a shift, or the shift alone"
            )
        rows = [torch.tensor(given, dtype=torch.float32, device="cpu").view(-1, 1, 1) for given in (mean, std)]
        return cls(factor, *rows)

    @property
    def device(self) -> torch.device | None:
        """Device of the numbers of each channel; None if there are none."""
        return self.mean.device if isinstance(self.mean, Tensor) else None

    def to(self, device: torch.device) -> LatentScale:
        """Return the same on a device."""
        mean, std = (part.to(device) if isinstance(part, Tensor) else part for part in (self.mean, self.std))
        return LatentScale(self.factor, mean, std)

    def scale(self, latents: Tensor) -> Tensor:
        """Return scaled latents of raw ones."""
        return (latents - self.mean) * self.factor / self.std

    def unscale(self, latents: Tensor) -> Tensor:
        """Return raw latents of scaled ones."""
        return latents * self.std / self.factor + self.mean
