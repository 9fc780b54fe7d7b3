"""Normalized: a network together with the normalisation and the image size that it expects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug.utils.checks import checked_normalization


class Normalized(nn.Module):
    """`model((images - mean) / std)` for images in [0, 1].

    Teacher and student may have different normalisations. Gradients: images yes, parameters of the model yes.

    Args:
        model: A network `(B, C, h, w) -> (B, K)`.
        mean: Mean per channel, in units of [0, 1].
        std: Standard deviation per channel, in units of [0, 1], above 0.
        size: Image size `(h, w)` that the network expects; other images are resized (bilinear, antialiased). None:
            images are not resized.

    Raises:
        ValueError: If the lengths differ, a std is not positive or a value is not finite; at a call, if the images have
            another number of channels.

    Example:
        >>> import torch
        >>> from hard_aug import Normalized
        >>> model = Normalized(torch.nn.Identity(), mean=(0.5,), std=(0.25,))
        >>> model(torch.ones(1, 1, 1, 1))
        tensor([[[[2.]]]])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        mean, std = checked_normalization(mean, std, name="Normalized")
        self.model, self.size = model, size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits `(B, K)` for images `(B, C, H, W)` in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ValueError(f"expected images of shape (B, {len(self.mean)}, H, W), got {tuple(images.shape)}")
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        return self.model((images - self.mean.to(images.dtype)) / self.std.to(images.dtype))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Format mean, std and size."""
        mean, std = (", ".join(f"{value:.4g}" for value in kept.flatten().tolist()) for kept in (self.mean, self.std))
        return f"mean=({mean}), std=({std}), size={self.size}"
