"""Tasks: their test sets, teacher views, oracles and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.tasks import Corruption, InvarianceTask, Plain, Shift, random_shift, random_views
from experiments.tasks.simple_corruptions import CORRUPTIONS
from hard_aug.data import ConcatImageSet, ImageSet
from hard_aug.evaluation.corruptions import NAMES
from hard_aug.transforms import Affine

TURN = Affine(translation=None, rotation=40.0, scale=None, shear=None)


@pytest.fixture
def test_images() -> ImageSet:
    return ImageSet(torch.rand(30, 1, 20, 20), torch.arange(30) % 3)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_shift(test_images: ImageSet) -> None:
    task = Shift(distance=4, train_shift=2)
    assert list(task.sets(test_images)) == ["clean", "shifted", "uniform"]
    assert torch.equal(
        task.teacher_views(test_images.images, generator()), random_shift(test_images.images, 2, generator())
    )
    still = Shift(distance=4, train_shift=0)
    assert still.teacher_views(test_images.images, generator()) is test_images.images
    transform, scale = task.oracle(20)
    assert repr(transform) == repr(Affine(translation=0.2, rotation=None, scale=None, shear=None))
    assert scale == 1.0
    with pytest.raises(ValueError, match="test_shift=0"):
        Shift(distance=0, train_shift=2)
    with pytest.raises(ValueError, match=r"teacher\.train_shift=-1"):
        Shift(distance=1, train_shift=-1)


def test_an_invariance_task_uses_views_of_its_transform(test_images: ImageSet) -> None:
    task = InvarianceTask(name="turned", transform=TURN, scale=0.5, copies=2, distance=3)
    sets = task.sets(test_images)
    assert list(sets) == ["clean", "turned", "shifted"]
    assert task.main == "turned"
    assert sets["clean"] is test_images
    assert len(sets["turned"]) == 60
    assert torch.equal(sets["turned"].labels, test_images.labels.repeat(2))
    assert torch.equal(sets["turned"].images, task.sets(test_images)["turned"].images)
    expected = random_views(TURN, test_images.images, generator(), scale=0.5)
    assert torch.equal(sets["turned"].images[:30], expected)
    assert torch.equal(task.teacher_views(test_images.images, generator()), expected)
    assert task.oracle(20) == (TURN, 0.5)


def test_a_teacher_that_knows_nothing_is_tested_on_the_same_views(test_images: ImageSet) -> None:
    knows, ignorant = (
        InvarianceTask(name="turned", transform=TURN, copies=2, teacher_knows=known) for known in (True, False)
    )
    assert ignorant.teacher_views(test_images.images, generator()) is test_images.images
    ours, theirs = ignorant.sets(test_images), knows.sets(test_images)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name].images, theirs[name].images) for name in ours)
    assert not torch.equal(ours["turned"].images[:30], test_images.images)
    assert ignorant.oracle(20) == (TURN, 1.0)


def test_simple_corruptions(test_images: ImageSet) -> None:
    task = Corruption(transform=TURN, images=10, held_out_corruptions=["shear"])
    sets = task.sets(test_images)
    assert list(sets) == ["clean", "corrupted", *CORRUPTIONS]
    assert sets["clean"] is test_images
    assert len(sets["corrupted"]) == 70
    assert torch.equal(sets["corrupted"].images[:10], sets["noise"].images)
    assert task.held_out_corruptions == ("shear",)
    assert task.oracle(20) == (TURN, 1.0)


def test_common_corruptions(tmp_path: Path) -> None:
    part = ImageSet(torch.rand(7, 1, 28, 28), torch.arange(7))
    task = Corruption(transform=TURN, images=3, kind="common", severities=[1, 5], cache=tmp_path)
    sets = task.sets(part)
    assert list(sets) == ["clean", "corrupted", *(f"corrupted/{name}" for name in NAMES)]
    assert isinstance(sets["corrupted"], ConcatImageSet)
    assert len(sets["corrupted"]) == 90
    assert sets["corrupted/fog"].shape == (1, 28, 28)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "some"}, r"task\.kind=some: expected simple or common"),
        ({"severities": [6]}, r"task\.severities=\[6\]"),
        ({"severities": [1, 1]}, r"task\.severities=\[1, 1\]: expected a non-empty subset of 1 to 5, each once"),
        ({"images": 0}, r"task\.images=0"),
        ({"held_out_corruptions": ["fog"]}, r"task\.held_out_corruptions=\['fog'\]: expected some of noise, blur"),
    ],
)
def test_invalid_corruptions(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Corruption(transform=TURN, **settings)


def test_plain(test_images: ImageSet) -> None:
    task = Plain()
    assert task.sets(test_images) == {"clean": test_images}
    assert task.teacher_views(test_images.images, generator()) is test_images.images
    assert task.derived({"clean": 0.5}) == {}
    with pytest.raises(ValueError, match="method=oracle: this task has no known invariance"):
        task.oracle(20)
    assert Plain(transform=TURN, scale=0.5).oracle(20) == (TURN, 0.5)
