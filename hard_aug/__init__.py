"""hard_aug: adversarial hard-augmentation distillation (after HARD, arXiv:2305.14890)."""

from hard_aug.augmenter import HardAugmenter
from hard_aug.batch import HardBatch
from hard_aug.diagnosis import Diagnosis, diagnose
from hard_aug.exported import LearnedAugmentation
from hard_aug.models.normalized import Normalized

__version__ = "0.1.0"

__all__ = [
    "Diagnosis",
    "HardAugmenter",
    "HardBatch",
    "LearnedAugmentation",
    "Normalized",
    "__version__",
    "diagnose",
]
