"""RunningMean: the mean of a number over about the last hundred calls, kept on its device."""

from __future__ import annotations

import torch
from torch import Tensor

#: By which the weight of a value falls with each later one: the mean is over about 100 values.
DECAY = 0.99


class RunningMean:
    """The mean of scalars, in which a value counts less with each later one.

    Args:
        device: of the scalars. Adding one does not synchronise with it.

    Example:
        >>> mean = RunningMean(torch.device("cpu"))
        >>> mean.value is None
        True
        >>> for number in (0.5, 1.0):
        ...     mean.add(torch.tensor(number))
        >>> round(mean.value, 3)
        0.751
    """

    def __init__(self, device: torch.device) -> None:
        self._sum, self._weight = (torch.zeros((), dtype=torch.float32, device=device) for _ in range(2))

    @torch.no_grad()
    def add(self, value: Tensor) -> None:
        """Add a scalar on the device; one that is not finite is left out."""
        value = value.detach().to(self._sum)
        finite = value.isfinite()
        self._sum.copy_(torch.where(finite, DECAY * self._sum + value, self._sum))
        self._weight.copy_(torch.where(finite, DECAY * self._weight + 1, self._weight))

    @property
    def value(self) -> float | None:
        """The mean; None: no value so far. Synchronises with the device."""
        weight = float(self._weight)
        return float(self._sum) / weight if weight else None
