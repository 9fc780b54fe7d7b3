"""Normalized: a network together with the input it wants, declared once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug.checks import checked_normalization


class Normalized(nn.Module):
    """`model((images - mean) / std)` for images in [0, 1].

    Args:
        model: a network `(B, C, h, w) -> (B, K)`.
        mean, std: per channel, in units of [0, 1]; std above 0.
        size: `(h, w)` that the network wants; other images are resized (bilinear, antialiased). None: as they come.

    Teacher and student may each have their own. Gradients: images yes, parameters of the model yes.

    Raises:
        ValueError: unequal lengths, a std that is not positive, values not finite, or images of other channels.
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
        self.model = model
        self.size = size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)` for images `(B, C, H, W)` in [0, 1]."""
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise ValueError(f"wanted images of shape (B, {len(self.mean)}, H, W), got {tuple(images.shape)}")
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False)
        normalized = (images - self.mean.to(images.dtype)) / self.std.to(images.dtype)
        return self.model(normalized)  # type: ignore[no-any-return]
