"""Test sets of groups, on a network whose predictions are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from experiments.tasks import Groups
from experiments.training.accuracy import accuracies
from hard_aug.data import Grouped, ImageSet

NAMES = (("land", "water"), ("field", "sea"))


def grouped(predicted: list[int], labels: list[int], spurious: list[int]) -> Grouped:
    """Images on which `nn.Flatten` predicts `predicted`."""
    images = torch.eye(2)[predicted].reshape(len(predicted), 2, 1, 1)
    return Grouped(images, torch.tensor(labels), torch.tensor(spurious), *NAMES)


TRAIN = grouped([0, 1], [0, 1], [0, 1])
#: land/field: 2 of 2 right, land/sea: 1 of 4, water/field: none, water/sea: 1 of 2.
TEST = grouped([0, 0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1, 1, 1])


def test_the_accuracies_of_groups() -> None:
    task = Groups(train=TRAIN)
    found = accuracies(nn.Flatten(), task.sets(TEST))
    assert found == {
        "in_distribution": 0.75,
        "absent_groups": 0.25,
        "groups/land/field": 1.0,
        "groups/land/sea": 0.25,
        "groups/water/sea": 0.5,
    }
    assert task.derived(found) == {"worst_group": 0.25, "mean_group": 0.58333}
    assert task.main == "worst_group"


def test_a_part_without_absent_groups() -> None:
    assert list(Groups(train=TRAIN).sets(TRAIN)) == ["in_distribution", "groups/land/field", "groups/water/sea"]


def test_the_teacher_sees_the_images_and_no_invariance_is_known() -> None:
    task = Groups(train=TRAIN)
    assert task.teacher_views(TEST.images, torch.Generator()) is TEST.images
    with pytest.raises(ValueError, match="no known invariance"):
        task.oracle(1)


def test_images_without_groups_raise() -> None:
    with pytest.raises(ValueError, match="task=groups requires data with groups, such as data=spurious"):
        Groups(train=ImageSet(TEST.images, TEST.labels))
