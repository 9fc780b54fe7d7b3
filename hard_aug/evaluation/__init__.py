"""Evaluation of students: common corruptions, accuracies by group, Spurious ImageNet; and the cost of training.

Requires the extra `evaluation`: `pip install 'hard_aug[evaluation]'`.
"""

from hard_aug.utils.extras import requires_extra

with requires_extra("hard_aug.evaluation", "evaluation", "torchvision", "PIL", "scipy", "skimage"):
    from hard_aug.evaluation.corruptions import corrupt
    from hard_aug.evaluation.groups import group_accuracies
    from hard_aug.evaluation.network_evaluations import (
        augmenter_evaluations,
        count_policy_updates,
        planned_augmenter_evaluations,
    )
    from hard_aug.evaluation.spurious_imagenet import mauc, spurious_mauc

__all__ = [
    "augmenter_evaluations",
    "corrupt",
    "count_policy_updates",
    "group_accuracies",
    "mauc",
    "planned_augmenter_evaluations",
    "spurious_mauc",
]
