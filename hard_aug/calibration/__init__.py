"""How far each group of a transform's parameters can go before the teacher's prediction changes."""

from hard_aug.calibration.calibrate import calibrate
from hard_aug.calibration.result import CalibratedParameter, Calibration

__all__ = ["CalibratedParameter", "Calibration", "calibrate"]
