"""Outer losses: what the student minimises."""

from hard_aug.distillation.kd import distillation_loss

__all__ = ["distillation_loss"]
