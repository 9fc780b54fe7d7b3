"""Networks as players: their input normalisation and the guard of their state."""

from hard_aug.models.guard import evaluation_mode, unwrapped
from hard_aug.models.normalized import Normalized

__all__ = ["Normalized", "evaluation_mode", "unwrapped"]
