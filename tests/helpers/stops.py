"""A stop that is requested after a number of steps."""

from __future__ import annotations

from experiments.training.interrupts import Stop


class StopAt(Stop):
    """Requests a stop when it is checked for the n-th time."""

    def __init__(self, times: int) -> None:
        self.times = times

    @property
    def requested(self) -> bool:  # type: ignore[override]  # computed here, a plain attribute there
        self.times -= 1
        return self.times < 0
