"""Settings of a student's training steps: the config group `trainer`."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real

from hard_aug.utils.checks import check_integer

PRECISIONS = ("no", "bf16", "fp16")


@dataclass(frozen=True)
class TrainerSettings:
    """How a student's training steps are computed.

    Args:
        precision: `no` for float32, or the autocast dtype: `bf16` or (on a GPU) `fp16`.
        accumulate: number of micro-batches that each batch is split into, to save memory. Views are drawn, and
            BatchNorm normalises, within each micro-batch.
        ema: decay, in [0, 1), of the exponential moving average of the weights that the student ends with; 0: off.

    Raises:
        ValueError: a setting outside its range.
    """

    precision: str = "no"
    accumulate: int = 1
    ema: float = 0.0

    def __post_init__(self) -> None:
        if self.precision is False:  # YAML's `no` without quotes
            object.__setattr__(self, "precision", "no")
        if self.precision not in PRECISIONS:
            raise ValueError(f"trainer.precision={self.precision}: expected one of {', '.join(PRECISIONS)}")
        check_integer(**{"trainer.accumulate": self.accumulate})
        if not (isinstance(self.ema, Real) and 0 <= self.ema < 1):
            raise ValueError(f"trainer.ema={self.ema}: expected a decay in [0, 1), such as 0.999; 0 turns it off")
