"""Outer losses: what the student minimises."""

from hard_aug.losses.kd import distillation_loss
from hard_aug.losses.two_view import LossAndLogits, TwoViewLoss

__all__ = ["LossAndLogits", "TwoViewLoss", "distillation_loss"]
