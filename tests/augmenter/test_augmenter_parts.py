"""What can be read off an augmenter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from hard_aug import Gaussian, GroupBandit, HardAugmenter
from hard_aug.augmenter_parts import AugmenterParts
from hard_aug.transforms import Affine, Menu


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2))
    return teacher, student


def test_the_parts_are_those_that_were_given() -> None:
    teacher, student = pair()
    transform = Affine()
    policy = Gaussian(transform.spec)
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=transform, policy=policy)
    assert isinstance(augmenter, AugmenterParts)
    assert augmenter.transform is transform
    assert augmenter.policy is policy
    assert augmenter.calibration is None
    assert augmenter.dropped_steps == 0
    assert augmenter.uniform_fraction == 0


def test_without_a_transform_it_is_the_menu_with_a_group_bandit() -> None:
    teacher, student = pair()
    augmenter = HardAugmenter(teacher=teacher, student=student)
    assert isinstance(augmenter.transform, Menu)
    assert isinstance(augmenter.policy, GroupBandit)
    text = repr(augmenter)
    assert "policy=GroupBandit(" in text
    assert "calibration=True" in text


def test_a_shallow_copy_is_refused_and_a_deep_one_has_the_same_parts() -> None:
    teacher, student = pair()
    augmenter = HardAugmenter(teacher=teacher, student=student)
    with pytest.raises(TypeError, match="shallow copy"):
        copy.copy(augmenter)
    assert repr(copy.deepcopy(augmenter)) == repr(augmenter)
