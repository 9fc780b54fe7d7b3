"""HostCopy: what a GPU has found, seen by the host without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """The value of a scalar tensor that changes in place.

    On a CUDA device it is the one of some calls ago: each call asks for a copy that nobody waits for, and returns what
    the last ones have brought. Elsewhere it is the present one.

    Args:
        scalar: boolean or integer.

    Example:
        >>> count = torch.zeros((), dtype=torch.int64)
        >>> seen = HostCopy(count)
        >>> count += 3
        >>> seen()
        3
    """

    def __init__(self, scalar: Tensor) -> None:
        self._scalar = scalar
        self._pinned: Tensor | None = None

    def __call__(self) -> int:
        """Return the value."""
        if not self._scalar.is_cuda:
            return int(self._scalar)
        if self._pinned is None:
            self._pinned = torch.zeros((), dtype=self._scalar.dtype, device="cpu", pin_memory=True)
        found = int(self._pinned)
        self._pinned.copy_(self._scalar, non_blocking=True)
        return found

    def __getstate__(self) -> dict[str, object]:
        """Return the state of a copy, without pinned memory."""
        return vars(self) | {"_pinned": None}
