"""Training methods of a student, the targets of the config group `method`."""

from experiments.methods.base import Distillation, Method, RandomViews, SeededViews, Supervised, TwoViewMethod
from experiments.methods.consistent_mixup import ConsistentMixup
from experiments.methods.drawn_views import DrawnViews, build_random, oracle_views
from experiments.methods.generated_images import GeneratedImages
from experiments.methods.hard import Hard, UnsupportedPartsError, build_hard
from experiments.methods.image_pool import Pool, SecondBatch
from experiments.methods.label_adversary import LabelConflict
from experiments.methods.mixup_cutmix import CutMixPick, Mixed
from experiments.methods.shuffled_policy import Shuffled
from experiments.methods.torchvision_policies import TorchvisionViews

__all__ = [
    "ConsistentMixup",
    "CutMixPick",
    "Distillation",
    "DrawnViews",
    "GeneratedImages",
    "Hard",
    "LabelConflict",
    "Method",
    "Mixed",
    "Pool",
    "RandomViews",
    "SecondBatch",
    "SeededViews",
    "Shuffled",
    "Supervised",
    "TorchvisionViews",
    "TwoViewMethod",
    "UnsupportedPartsError",
    "build_hard",
    "build_random",
    "oracle_views",
]
