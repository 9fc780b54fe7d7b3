"""Training methods of a student, the targets of the config group `method`."""

from experiments.methods.base import Distillation, Method, Supervised, TwoViewMethod
from experiments.methods.drawn_views import RandomViews, TorchvisionViews, build_random, oracle_views
from experiments.methods.generated_images import GeneratedImages
from experiments.methods.hard import Hard, UnsupportedPartsError, build_hard
from experiments.methods.image_pool import Pool, SecondBatch
from experiments.methods.label_adversary import LabelConflict
from experiments.methods.mixup_cutmix import ConsistentMixup, CutMixPick, Mixed

__all__ = [
    "ConsistentMixup",
    "CutMixPick",
    "Distillation",
    "GeneratedImages",
    "Hard",
    "LabelConflict",
    "Method",
    "Mixed",
    "Pool",
    "RandomViews",
    "SecondBatch",
    "Supervised",
    "TorchvisionViews",
    "TwoViewMethod",
    "UnsupportedPartsError",
    "build_hard",
    "build_random",
    "oracle_views",
]
