"""FiniteCheck: raises if the output of a generative network is not finite, before it is clamped and classified.

Clamping images to [0, 1] turns infinities, such as those of a network that overflows in float16, into black and white
pixels. NaN survives, and would make the classifiers that see such images look broken.
"""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteCheck:
    """Check that values are finite without synchronising with a GPU at every call.

    On the CPU, values are read at each call. On a GPU, reading them synchronises with the device, so only the first
    call of each shape reads them; later failures are recorded on the device for `pop_nonfinite_reports`, also while a
    CUDA graph is captured and replayed.

    Args:
        message: text of the error; names the network and what to do.
    """

    def __init__(self, message: str) -> None:
        self.message = message
        self._nonfinite: dict[torch.device, Tensor] = {}
        self._seen_shapes: set[tuple[int, ...]] = set()

    def __call__(self, values: Tensor) -> Tensor:
        """Return `values` unchanged, with their graph.

        Raises:
            FloatingPointError: values that are read contain NaN or infinities.
        """
        finite = values.detach().isfinite().all()
        if self._reads(values):
            if not bool(finite):
                raise FloatingPointError(self.message)
            self._seen_shapes.add(tuple(values.shape))
            return values
        if values.device not in self._nonfinite:
            with torch.inference_mode(False):  # the flag is also written to outside of inference mode
                self._nonfinite[values.device] = torch.zeros((), dtype=torch.bool, device=values.device)
        self._nonfinite[values.device] |= ~finite
        return values

    def _reads(self, values: Tensor) -> bool:
        if values.device.type == "cpu":
            return True
        captured = values.is_cuda and torch.cuda.is_current_stream_capturing()
        return not captured and tuple(values.shape) not in self._seen_shapes

    def pop_nonfinite_reports(self) -> list[str]:
        """Return the message if a failure was recorded since the last call; synchronises with the device."""
        found = [bool(flag) for flag in self._nonfinite.values()]
        for flag in self._nonfinite.values():
            flag.zero_()
        return [self.message] if any(found) else []
