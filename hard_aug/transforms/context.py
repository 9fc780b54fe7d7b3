"""What a transform may need beyond the images and `u`: labels, partner images to mix in, and noise."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hard_aug.utils import rng

if TYPE_CHECKING:
    from hard_aug.transforms.base import Transform


@dataclass(frozen=True, slots=True)
class Context:
    """Additional inputs of a transform. With the same context, a batch can be transformed again exactly.

    Attributes:
        labels: Integers `(B,)`, if the caller has them.
        partner_images: `(B, C, H, W)`, the images that `PatchMix` mixes in: the batch in another order.
        partner_logits: `(B, K)`, the teacher's logits on the partner images.
        noise: `(B, C, H, W)`, standard normal, which `Filter(noise=...)` adds.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Context, Filter
        >>> images = torch.rand(2, 3, 8, 8)
        >>> filter = Filter(noise=0.1)
        >>> filter(images, torch.randn(2, filter.size), Context(noise=torch.randn_like(images))).shape
        torch.Size([2, 3, 8, 8])
    """

    labels: Tensor | None = None
    partner_images: Tensor | None = None
    partner_logits: Tensor | None = None
    noise: Tensor | None = None

    def first(self, count: int) -> Context:
        """Slice to the first `count` images; return `self` if that is the whole batch."""
        is_whole = all(value is None or len(value) == count for value in self._values())
        return self if is_whole else self.rows(slice(count))

    def rows(self, rows: slice) -> Context:
        """Slice to the given rows of the batch."""
        return Context(*(None if value is None else value[rows] for value in self._values()))

    def _values(self) -> tuple[Tensor | None, ...]:
        return self.labels, self.partner_images, self.partner_logits, self.noise


def make_context(
    transform: Transform,
    images: Tensor,
    *,
    generator: torch.Generator,
    labels: Tensor | None = None,
    teacher_logits: Tensor | None = None,
) -> Context:
    """Draw the partners and the noise that a transform requires for a batch.

    Partners are drawn before noise, and nothing is drawn that the transform does not require.

    Args:
        transform: The transform that the context is for.
        images: Clean images `(B, C, H, W)`.
        generator: Source of all random numbers, on the device of the images or on the CPU.
        labels: Integers `(B,)`, passed on.
        teacher_logits: The teacher's logits `(B, K)` on `images`; gives the `partner_logits`.

    Returns:
        The context, on the device of the images; noise has their dtype.

    Example:
        >>> import torch
        >>> from hard_aug.transforms import Affine, Filter, make_context
        >>> images, generator = torch.rand(2, 3, 8, 8), torch.Generator().manual_seed(0)
        >>> make_context(Filter(noise=0.1), images, generator=generator).noise.shape
        torch.Size([2, 3, 8, 8])
        >>> make_context(Affine(), images, generator=generator).noise is None
        True
    """
    partner_images = partner_logits = noise = None
    if transform.requires_partner:
        if len(images) == 1:
            warnings.warn(
                f"{type(transform).__name__} mixes the images of a batch, and a single one has only itself to be mixed "
                "with, so it stays as it is; use larger batches (of a hard_fraction, its part of each batch counts)",
                stacklevel=2,
            )
        partner = rng.derangement(len(images), generator).to(images.device)
        partner_images = images[partner]
        partner_logits = None if teacher_logits is None else teacher_logits[partner]
    if transform.requires_noise:
        noise = rng.randn(tuple(images.shape), generator).to(images)
    return Context(labels, partner_images, partner_logits, noise)
