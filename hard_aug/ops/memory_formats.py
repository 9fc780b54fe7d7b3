"""Data types and memory formats that the operations and the transforms share."""

from __future__ import annotations

import torch
from torch import Tensor

#: Floating-point types that the kernels read and write; they compute in float32.
KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def memory_format_of(images: Tensor) -> torch.memory_format:
    """Return the memory format of an output made from `images`, `(B, C, H, W)`: channels_last or contiguous."""
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format
