"""Diffusion: edits of the noise of an image, the deterministic map from noise to image of a truncated chain.

The image is taken part of its way to noise by the chain in reverse (DDIM inversion, arXiv:2010.02502), `e`, where the
chain would bring it back; the edit turns that noise towards another, on the sphere on which standard normal vectors
lie, and the chain runs from there (SDEdit, arXiv:2108.01073):

    e' = |e| (e + spread u) / |e + spread u|

`u` is the noise itself, not a bounded value: `u ~ N(0, 1)`, which for other transforms is random augmentation, is a
random noise here. So `Search` finds the best of several noises, ascends `u`, or both; it is the policy to use.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from hard_aug.ops.formats import memory_format_of
from hard_aug.solvers.chain import Chain, on_shell
from hard_aug.transforms.base import Context, Parameter, Transform
from hard_aug.transforms.memory import OfImages
from hard_aug.transforms.settings import check_positive


class Diffusion(Transform):
    """Images from edited noise. `u = 0` is the identity, unless `spread` is infinite: then it is no noise at all.

    Args:
        chain: of the denoiser; its `strength` says how much of the image the noise holds.
        height, width: of the images, pixels; None: what the denoiser's config says.
        spread: how far `u` turns the noise, above 0; infinity: all the way, `e' = u |e| / |u|`.
        residual: give back the image plus what the edit changes. Else: the chain's output, and `u = 0` is the image as
            far as the inversion is exact.

    A denoiser with a condition wants labels: `augmenter(images, labels)`.

    Raises:
        TypeError, ValueError: a chain that renoises, or settings out of range; at a call, images of another size.
        FloatingPointError: at a call, a network that overflows; see `Diffuser.decode`.

    Gradients: images yes (through `residual`'s sum alone), parameters yes, second order no.
    """

    def __init__(
        self,
        chain: Chain,
        *,
        height: int | None = None,
        width: int | None = None,
        spread: float = 1.0,
        residual: bool = True,
    ) -> None:
        if not isinstance(chain, Chain):
            raise TypeError(f"chain: wanted a Chain, such as Chain(diffuser, strength=0.5), got {type(chain).__name__}")
        if chain.renoise:
            raise ValueError(f"renoise={chain.renoise}: the map has to be deterministic; use Chain(..., renoise=0.0)")
        if spread != math.inf:
            check_positive(spread=spread)
        self.chain, self.spread, self.residual = chain, spread, residual
        if height is None or width is None:
            own_height, own_width = chain.diffuser.image_size()
            height, width = height or own_height, width or own_width
        self.height, self.width = height, width
        self._clean: OfImages[tuple[Tensor, ...]] = OfImages()
        self.latent = chain.diffuser.latent_shape(height, width)
        channels, rows, columns = self.latent
        names = [(c, r, s) for c in range(channels) for r in range(rows) for s in range(columns)]
        self.spec = tuple(
            Parameter(f"noise_{c}_{r}_{s}", -1.0, 1.0, 0.0, "quantile of the noise", block=f"noise_{c}")
            for c, r, s in names
        )

    @property
    def wants_labels(self) -> bool:
        return bool(self.chain.diffuser.condition(torch.zeros(1, dtype=torch.int64, device=self.chain.diffuser.device)))

    def check_channels(self, channels: int) -> None:
        diffuser = self.chain.diffuser
        if diffuser.codec is not None:
            diffuser.codec.check_channels(channels)
        elif channels != self.latent[0]:
            raise ValueError(f"the denoiser takes images of {self.latent[0]} channels, got {channels}")

    def faults(self) -> list[str]:
        return self.chain.diffuser.faults()

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        if tuple(images.shape[-2:]) != (self.height, self.width):
            raise ValueError(
                f"images of {images.shape[-2]} x {images.shape[-1]}: this transform was made for {self.height} x "
                f"{self.width}; give height= and width="
            )
        if images.numel() == 0:
            return images
        chain, diffuser = self.chain, self.chain.diffuser
        labels = context.labels
        if labels is None:
            if self.wants_labels:
                raise ValueError("the denoiser is conditioned on a class: call augmenter(images, labels)")
            labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        given = (images,) if context.labels is None else (images, labels)
        clean, noise, *back = self._clean(partial(self._inverted, images, labels), *given)
        edit = u.float().view(-1, *self.latent)
        edited = edit if math.isinf(self.spread) else noise + self.spread * edit
        out = diffuser.decode(chain.run(chain.start(on_shell(edited, noise), clean), labels))
        if back:
            out = images + (out - back[0])
        return out.to(images.dtype).contiguous(memory_format=memory_format_of(images))

    @torch.no_grad()
    def _inverted(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Latents and noise of images, and what the chain makes of that noise where the residual wants it."""
        chain, diffuser = self.chain, self.chain.diffuser
        clean = diffuser.encode(images)
        noise = chain.invert(clean, labels)
        if not self.residual:
            return clean, noise
        return clean, noise, diffuser.decode(chain.run(chain.start(noise, clean), labels))
