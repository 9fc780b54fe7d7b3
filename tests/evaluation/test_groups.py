"""Accuracies by group, computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from experiments.training.accuracy import accuracy
from hard_aug.data import Grouped
from hard_aug.evaluation import group_accuracies
from tests.helpers.group_parts import ATTRIBUTES, BIRDS, CLASSES, Reader, grouped


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_accuracies_of_groups_by_hand(batch_size: int) -> None:
    model = Reader().train()
    birds = grouped(*BIRDS)
    found = group_accuracies(model, birds, batch_size=batch_size)
    assert found["groups"] == {"landbird/land": 3 / 4, "landbird/water": 1 / 2, "waterbird/water": 1 / 3}
    assert found["counts"] == {"landbird/land": 4, "landbird/water": 2, "waterbird/water": 3} == birds.counts()
    assert found["accuracy"] == pytest.approx(5 / 9)
    assert found["worst_group"] == pytest.approx(1 / 3)
    assert found["worst_group_name"] == "waterbird/water"
    assert found["mean_group"] == pytest.approx((3 / 4 + 1 / 2 + 1 / 3) / 3)
    assert "adjusted" not in found
    assert model.training
    assert accuracy(model, birds, batch_size=batch_size) == found["accuracy"]


def test_the_adjusted_average_has_the_weights_of_the_training_data() -> None:
    birds = grouped(*BIRDS)
    counts = {"landbird/land": 90, "landbird/water": 0, "waterbird/water": 10}
    found = group_accuracies(Reader(), birds, train_counts=counts)
    assert found["adjusted"] == pytest.approx(0.9 * 3 / 4 + 0.1 / 3)
    own = group_accuracies(Reader(), birds, train_counts=birds.counts())
    assert own["adjusted"] == pytest.approx(own["accuracy"])
    for counts, match in (
        ({"waterbird/land": 5, "landbird/land": 5}, "no image of waterbird/land to evaluate"),
        ({"landbird/sky": 5}, "landbird/sky"),
        ({"landbird/land": 5, "landbird/water": -1}, "expected numbers"),
        ({"landbird/land": 0}, "not all 0"),
        ({}, "not all 0"),
    ):
        with pytest.raises(ValueError, match=match):
            group_accuracies(Reader(), birds, train_counts=counts)


def test_nan_is_never_correct_and_bad_calls_raise() -> None:
    birds = grouped(*BIRDS)
    broken = Grouped(birds.images * torch.nan, birds.labels, birds.spurious, CLASSES, ATTRIBUTES)
    assert group_accuracies(Reader(), broken)["accuracy"] == 0
    with pytest.raises(ValueError, match="at least one image"):
        group_accuracies(Reader(), birds[slice(0, 0)])
    with pytest.raises(ValueError, match="batch_size=0"):
        group_accuracies(Reader(), birds, batch_size=0)
    with pytest.raises(ValueError, match=r"logits \(9, 4\)"):
        group_accuracies(nn.Flatten(), birds)
    model = nn.Sequential(nn.Dropout(), nn.Unflatten(1, (7, 7))).train()
    with pytest.raises(RuntimeError):
        group_accuracies(model, birds)
    assert all(module.training for module in model.modules())


def test_models_of_every_kind() -> None:
    class Overwriting(Reader):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.mul_(1.0).add_(1.0).sub_(1.0))

    birds = grouped(*BIRDS)
    version = birds.images._version
    kept, expected = birds.images.clone(), group_accuracies(Reader(), birds)
    for model in (Overwriting(), torch.jit.script(Reader()), nn.DataParallel(Overwriting())):
        for batch_size in (2, 1000):
            assert group_accuracies(model, birds, batch_size=batch_size) == expected
            assert torch.equal(birds.images, kept)
            assert birds.images._version == version
