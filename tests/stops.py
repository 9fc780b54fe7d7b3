"""A stop that comes after so many steps, as a person's does at any moment."""

from __future__ import annotations

from experiments.stop import Stop


class StopAt(Stop):
    """Asks for a stop at the n-th time that it is asked."""

    def __init__(self, times: int) -> None:
        self.times = times

    @property
    def requested(self) -> bool:  # type: ignore[override]  # computed here, a plain attribute there
        self.times -= 1
        return self.times < 0
