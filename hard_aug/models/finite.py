"""FiniteCheck: what a network gave is finite, or that is said before it is clamped and shown to other networks.

Infinities, as of a network that overflows in float16, become black and white pixels when images are clamped to [0, 1];
NaN stays, and makes the networks look broken that are shown such images.
"""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteCheck:
    """Values are read on the CPU at each call, elsewhere (where that means to wait) at the first call of a shape; later
    faults there are noted for `faults`, also while a CUDA graph is recorded and played back.

    Args:
        message: which network it is, and what to do.
    """

    def __init__(self, message: str) -> None:
        self.message = message
        self._noted: dict[torch.device, Tensor] = {}
        self._seen: set[tuple[int, ...]] = set()

    def __call__(self, values: Tensor) -> Tensor:
        """`values` as they are, with their graph.

        Raises:
            FloatingPointError: the message, for values that are read and hold NaN or infinities.
        """
        finite = values.detach().isfinite().all()
        if self._reads(values):
            if not bool(finite):
                raise FloatingPointError(self.message)
            self._seen.add(tuple(values.shape))
            return values
        if values.device not in self._noted:
            with torch.inference_mode(False):  # it is kept, and written to outside of that too
                self._noted[values.device] = torch.zeros((), dtype=torch.bool, device=values.device)
        self._noted[values.device] |= ~finite
        return values

    def _reads(self, values: Tensor) -> bool:
        if values.device.type == "cpu":
            return True
        if values.is_cuda and torch.cuda.is_current_stream_capturing():
            return False
        return tuple(values.shape) not in self._seen

    def faults(self) -> list[str]:
        """The message, if a fault was noted since the last call; waits for the device then."""
        found = [bool(noted) for noted in self._noted.values()]
        for noted in self._noted.values():
            noted.zero_()
        return [self.message] if any(found) else []
