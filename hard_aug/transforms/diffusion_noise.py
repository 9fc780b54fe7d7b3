"""Diffusion: edits of an image's noise, followed by deterministic sampling with a truncated noise schedule.

The image is taken part of the way to noise by the sampler in reverse (DDIM inversion, arXiv:2010.02502), which gives
the noise `e` that sampling would bring back to the image. The edit rotates it towards another noise, on the sphere on
which standard normal vectors lie, and sampling runs from there (SDEdit, arXiv:2108.01073):

    e' = |e| (e + noise_scale u) / |e + noise_scale u|

`u` is the noise itself, not a bounded value: `u ~ N(0, 1)`, which is random augmentation with other transforms, is
random noise here. So `Search` is the policy to use: it takes the best of several noises, ascends `u`, or both.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from hard_aug.generative.noise import match_norm
from hard_aug.generative.sampler import DiffusionSampler
from hard_aug.ops.memory_formats import memory_format_of
from hard_aug.transforms.argument_checks import check_positive
from hard_aug.transforms.base import Transform
from hard_aug.transforms.clean_cache import CleanImageCache
from hard_aug.transforms.context import Context
from hard_aug.transforms.spec import Parameter


class Diffusion(Transform):
    """Images sampled from edited noise. `u = 0` is the identity, unless `noise_scale` is infinite: then it is no noise.

    A conditional denoiser requires labels: `augmenter(images, labels)`. Gradients: images yes (through the sum of
    `residual` alone), parameters yes, second order no.

    Args:
        sampler: deterministic sampler; its `strength` sets how much of the image the noise determines.
        height: height of the images, pixels; None: that of the denoiser's config.
        width: width of the images, pixels; None: that of the denoiser's config.
        noise_scale: how far `u` rotates the noise, above 0; infinity: all the way, `e' = u |e| / |u|`.
        residual: whether to return the image plus the change by the edit. Otherwise the sampler's output is returned,
            and `u = 0` is the image only as far as the inversion is exact.

    Raises:
        TypeError: `sampler` is not a `DiffusionSampler`.
        ValueError: the sampler is stochastic, or a setting is out of range; at a call, the images have another size, or
            labels are missing.
        FloatingPointError: at a call, a network overflows; see `DiffusionModel.decode`.

    Example:
        >>> import diffusers
        >>> from hard_aug.generative import DiffusionModel
        >>> unet = diffusers.UNet2DModel(
        ...     sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,) * 4, norm_num_groups=8
        ... )
        >>> model = DiffusionModel(unet, diffusers.DDIMScheduler())
        >>> transform = Diffusion(DiffusionSampler(model, steps=4, strength=0.5))
        >>> images = torch.rand(2, 1, 8, 8)
        >>> torch.allclose(transform(images, torch.zeros(2, transform.size)), images)
        True
    """

    def __init__(
        self,
        sampler: DiffusionSampler,
        *,
        height: int | None = None,
        width: int | None = None,
        noise_scale: float = 1.0,
        residual: bool = True,
    ) -> None:
        if not isinstance(sampler, DiffusionSampler):
            raise TypeError(
                "sampler: expected a DiffusionSampler, such as DiffusionSampler(model, strength=0.5), got "
                f"{type(sampler).__name__}"
            )
        if sampler.eta:
            raise ValueError(f"eta={sampler.eta}: expected a deterministic sampler; use DiffusionSampler(..., eta=0.0)")
        if noise_scale != math.inf:
            check_positive(noise_scale=noise_scale)
        self.sampler, self.noise_scale, self.residual = sampler, noise_scale, residual
        if height is None or width is None:
            own_height, own_width = sampler.model.image_size()
            height, width = height or own_height, width or own_width
        self.height, self.width = height, width
        self._clean: CleanImageCache[tuple[Tensor, ...]] = CleanImageCache()
        self.latent_shape = sampler.model.latent_shape(height, width)
        channels, rows, columns = self.latent_shape
        names = [(c, r, s) for c in range(channels) for r in range(rows) for s in range(columns)]
        self.spec = tuple(
            Parameter(f"noise_{c}_{r}_{s}", -1.0, 1.0, 0.0, "quantile of the noise", block=f"noise_{c}", group="noise")
            for c, r, s in names
        )

    @property
    def requires_labels(self) -> bool:
        """Whether the denoiser is conditional."""
        model = self.sampler.model
        return bool(model.condition(torch.zeros(1, dtype=torch.int64, device=model.device)))

    def check_channels(self, channels: int) -> None:
        """See `Transform.check_channels`."""
        model = self.sampler.model
        if model.codec is not None:
            model.codec.check_channels(channels)
        elif channels != self.latent_shape[0]:
            raise ValueError(f"the denoiser takes images of {self.latent_shape[0]} channels, got {channels}")

    def pop_nonfinite_reports(self) -> list[str]:
        """See `Transform.pop_nonfinite_reports`."""
        return self.sampler.model.pop_nonfinite_reports()

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.apply`."""
        if tuple(images.shape[-2:]) != (self.height, self.width):
            raise ValueError(
                f"images of {images.shape[-2]} x {images.shape[-1]}: this transform was made for {self.height} x "
                f"{self.width}; give height= and width="
            )
        if images.numel() == 0:
            return images
        sampler = self.sampler
        labels = context.labels
        if labels is None:
            if self.requires_labels:
                raise ValueError("the denoiser is conditioned on a class: call augmenter(images, labels)")
            labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        given = (images,) if context.labels is None else (images, labels)
        clean, noise, *reconstruction = self._clean(partial(self._invert, images, labels), *given)
        edit = u.float().view(-1, *self.latent_shape)
        edited = edit if math.isinf(self.noise_scale) else noise + self.noise_scale * edit
        start = sampler.start(match_norm(edited, noise), clean)
        out = sampler.model.decode(sampler.run(start, labels))
        if reconstruction:
            out = images + (out - reconstruction[0])
        return out.to(images.dtype).contiguous(memory_format=memory_format_of(images))

    @torch.no_grad()
    def _invert(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Return the latents and the noise of images, and what sampling makes of it if `residual` requires it."""
        sampler = self.sampler
        clean = sampler.model.encode(images)
        noise = sampler.invert(clean, labels)
        if not self.residual:
            return clean, noise
        return clean, noise, sampler.model.decode(sampler.run(sampler.start(noise, clean), labels))
