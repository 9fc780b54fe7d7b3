"""What the augmenter maximises (disagreement) and what it must keep (the teacher's answer)."""

from hard_aug.objectives.disagreement import KL, Disagreement, kl_divergence
from hard_aug.objectives.invariance import Constraint, Invariance, Penalty, teacher_change

__all__ = ["KL", "Constraint", "Disagreement", "Invariance", "Penalty", "kl_divergence", "teacher_change"]
