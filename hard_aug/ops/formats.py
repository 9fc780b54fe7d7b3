"""Formats: what is asked about types and memory in more than one place."""

from __future__ import annotations

import torch
from torch import Tensor

#: Floating-point types that the kernels read and write; they compute in float32.
KERNEL_TYPES = (torch.float16, torch.bfloat16, torch.float32)


def memory_format_of(images: Tensor) -> torch.memory_format:
    """That in which what is made of `images`, `(B, C, H, W)`, is given back: channels_last or contiguous."""
    channels_last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format
