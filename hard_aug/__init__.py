"""Adversarial hard-augmentation distillation in PyTorch (after HARD, arXiv:2305.14890)."""

from hard_aug.augmenter import HardAugmenter
from hard_aug.batch import HardBatch
from hard_aug.calibration import Calibration, calibrate
from hard_aug.diagnosis import Diagnosis, diagnose, teacher_stddev
from hard_aug.export import LearnedAugmentation
from hard_aug.inner_loop.exploration import Exploration
from hard_aug.models import Normalized
from hard_aug.objectives import KL, Constraint, Hinge, KeepRate, Penalty
from hard_aug.policies import Conditional, Gaussian, Generator, GroupBandit, Search, Uniform
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine, Color, Compose, Elastic, Filter, PatchMix, Perspective, menu

__version__ = "0.1.0"

__all__ = [
    "KL",
    "Affine",
    "Alternating",
    "Calibration",
    "Color",
    "Compose",
    "Conditional",
    "Constraint",
    "Diagnosis",
    "Elastic",
    "Exploration",
    "Filter",
    "Gaussian",
    "Generator",
    "GroupBandit",
    "HardAugmenter",
    "HardBatch",
    "Hinge",
    "KeepRate",
    "LearnedAugmentation",
    "Normalized",
    "PatchMix",
    "Penalty",
    "Perspective",
    "Search",
    "Threshold",
    "Uniform",
    "__version__",
    "calibrate",
    "diagnose",
    "menu",
    "teacher_stddev",
]
