"""Modules that stay in float32: policies and multipliers, which half precision would round to nothing new."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Float32Module(nn.Module):
    """A module whose floating-point tensors are float32, whatever it, or a module that holds it, is cast to.

    `half()`, `to(torch.bfloat16)` and the like leave it as it is; `to(device)` moves it, and casts what was created in
    another default dtype. (Steps of 0.02 vanish in bfloat16 at a parameter of 8, and MPS devices have no float64.)

    Example:
        >>> class Scale(Float32Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.log_scale = nn.Parameter(torch.zeros(3))
        >>> model = nn.ModuleDict({"scale": Scale(), "head": nn.Linear(3, 2)}).to(torch.bfloat16)
        >>> model["scale"].log_scale.dtype, model["head"].weight.dtype
        (torch.float32, torch.bfloat16)
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float32Module:
        def moved(tensor: Tensor) -> Tensor:
            found = fn(tensor)
            if not tensor.is_floating_point() or found.dtype == torch.float32:
                return found
            return tensor.to(device=found.device, dtype=torch.float32)  # the tensor itself: `found` may be rounded

        return super()._apply(moved, recurse)  # type: ignore[no-untyped-call,no-any-return]  # untyped in torch
