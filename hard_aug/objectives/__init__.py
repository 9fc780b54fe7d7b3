"""What the augmenter maximises (disagreement) and what it must preserve (the teacher's prediction)."""

from hard_aug.objectives.confidence import ConfidenceGap, ConfidenceMargin, ConfidenceRatio
from hard_aug.objectives.disagreement import (
    KL,
    DecisionMaskedKL,
    Disagreement,
    JensenShannon,
    LogitMSE,
    Reference,
    ReverseKL,
)
from hard_aug.objectives.invariance import Constraint, Hinge, Invariance, KeepRate, Penalty, teacher_divergence
from hard_aug.objectives.response import ResponseChange
from hard_aug.ops.divergence import kl_divergence

__all__ = [
    "KL",
    "ConfidenceGap",
    "ConfidenceMargin",
    "ConfidenceRatio",
    "Constraint",
    "DecisionMaskedKL",
    "Disagreement",
    "Hinge",
    "Invariance",
    "JensenShannon",
    "KeepRate",
    "LogitMSE",
    "Penalty",
    "Reference",
    "ResponseChange",
    "ReverseKL",
    "kl_divergence",
    "teacher_divergence",
]
