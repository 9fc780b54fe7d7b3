"""LatentEdit: base class of transforms that edit images in the latents of a frozen autoencoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hard_aug.ops.memory_formats import memory_format_of
from hard_aug.transforms.base import Transform
from hard_aug.transforms.clean_cache import CleanImageCache
from hard_aug.transforms.context import Context
from hard_aug.utils.checks import check_integer


class LatentEdit(Transform):
    """Encodes the clean images once, and decodes them with edits in micro-batches.

    Args:
        residual: whether to return the image plus the change by the edit, `x + (decode(edited) - decode(unedited))`,
            instead of the decoded image. Then the student does not learn the blur of a reconstruction, and `u = 0`
            returns the image itself.
        micro_batch: number of images that are decoded at once; None: all.
        checkpointing: whether to decode again in the backward pass instead of storing activations.

    Raises:
        ValueError: `micro_batch` is not an integer >= 1.
    """

    def __init__(self, *, residual: bool, micro_batch: int | None, checkpointing: bool) -> None:
        check_integer(micro_batch=micro_batch)
        self.micro_batch = None if micro_batch is None else int(micro_batch)
        self.residual, self.checkpointing = residual, checkpointing
        self._clean: CleanImageCache[tuple[Tensor, ...]] = CleanImageCache()

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        """See `Transform.apply`."""
        if images.numel() == 0:
            return images
        self._check_images(images)
        values = torch.stack(tuple(self.decode(u).values()), dim=1).float()
        size = self.micro_batch or len(images)
        clean = self._clean(lambda: self._prepare(images, size), images)
        rows = (torch.split(tensor, size) for tensor in (images, values, *clean))
        parts = [self._edit_part(*part) for part in zip(*rows, strict=True)]
        out = torch.cat(parts) if len(parts) > 1 else parts[0]
        return out.contiguous(memory_format=memory_format_of(images))

    @abstractmethod
    def _check_images(self, images: Tensor) -> None:
        """Raise `ValueError` if the autoencoder can't process the images."""

    @abstractmethod
    def _encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what decoding needs of the images, with a row for each image, such as their latents."""

    @abstractmethod
    def _reconstruct(self, images: Tensor, *encoded: Tensor) -> Tensor:
        """Decode without an edit."""

    @abstractmethod
    def _decode_edited(self, images: Tensor, values: Tensor, *encoded: Tensor) -> Tensor:
        """Decode with the edits of physical values `(B, P)`."""

    @torch.no_grad()
    def _prepare(self, images: Tensor, size: int) -> tuple[Tensor, ...]:
        """Return the encoded images, and their reconstruction if `residual` requires it."""
        parts = torch.split(images, size)
        encoded = [self._encode(part) for part in parts]
        joined = tuple(torch.cat(tensors) for tensors in zip(*encoded, strict=True))
        if not self.residual:
            return joined
        plain = [self._reconstruct(part, *latents) for part, latents in zip(parts, encoded, strict=True)]
        return *joined, torch.cat(plain)

    def _edit_part(self, images: Tensor, values: Tensor, *clean: Tensor) -> Tensor:
        encoded, plain = (clean[:-1], clean[-1]) if self.residual else (clean, None)
        if self.checkpointing and values.requires_grad:
            recomputed = cast(Callable[..., Tensor], checkpoint)
            arguments = (images, values, *encoded)
            out = recomputed(self._decode_edited, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            out = self._decode_edited(images, values, *encoded)
        return (out if plain is None else images + (out - plain)).to(images.dtype)
