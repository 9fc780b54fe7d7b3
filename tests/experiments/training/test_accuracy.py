"""Accuracy of a network on image sets, of joined ones, and among some of the classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.training import accuracy as module
from experiments.training.accuracy import accuracies, accuracy, finite_failure_metrics, predict_classes, summary_sets
from hard_aug.data import ConcatImageSet, ImageSet


class Reader(nn.Module):
    """Predicts the class that is written in the first pixel; counts the images."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(B, 4)`."""
        assert not self.training
        self.seen += len(images)
        return nn.functional.one_hot((images[:, 0, 0, 0] * 4).long(), 4).float() + 0 * self.weight


class AmongTwo(ImageSet):
    """Images of the classes 1 and 3."""

    class_subset = torch.tensor([1, 3])


def written(classes: list[int], labels: list[int], kind: type[ImageSet] = ImageSet) -> ImageSet:
    images = (torch.tensor(classes)[:, None, None, None] / 4 + 0.1).expand(-1, 1, 2, 2)
    return kind(images, torch.tensor(labels))


def test_accuracy_is_the_fraction_of_correct_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    model, part = Reader().train(), written([0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 3, 3, 3])
    assert accuracy(model, part) == accuracy(model, part, batch_size=3) == 4 / 7
    assert model.training
    monkeypatch.setattr(module, "BATCH_BYTES", 2 * 4 * 4)  # two images
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    assert accuracy(model, part) == 4 / 7
    assert sizes == [2, 2, 2, 1]
    with pytest.raises(ValueError, match="at least one image"):
        accuracy(model, part[slice(0, 0)])


def test_a_prediction_is_among_the_classes_of_the_set() -> None:
    logits = torch.tensor([[9.0, 0.0, 1.0, 2.0], [0.0, 3.0, 1.0, 9.0]])
    assert predict_classes(logits, None).tolist() == [0, 3]
    assert predict_classes(logits, torch.tensor([1, 2])).tolist() == [2, 1]
    assert accuracy(Reader(), written([0, 3, 1, 2], [1, 3, 3, 1], AmongTwo)) == 0.75  # ties: the first of both


def test_joined_sets_are_evaluated_once() -> None:
    fog, snow = written([0, 1, 2], [0, 1, 3]), written([1], [2])
    model = Reader()
    sets = {"all": ConcatImageSet((fog, snow)), "all/fog": fog, "all/snow": snow}
    assert accuracies(model, sets) == {"all": 0.5, "all/fog": 0.66667, "all/snow": 0.0}
    assert model.seen == 4
    assert accuracy(model, sets["all"]) == 0.5
    assert summary_sets(sets) == ["all"]


def test_failure_metrics_that_are_not_numbers_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(images: Tensor, unguided: Tensor, labels: Tensor, **others: Any) -> dict[str, float]:
        assert others.keys() == {"teacher", "student"}
        change = float((images - unguided).abs().max())
        return {"change": change, "judge": math.nan, "ratio": math.inf}

    monkeypatch.setattr(module.synthesis, "failure_metrics", fake)
    bytes_of = torch.full((1, 1, 2, 2), 51, dtype=torch.uint8)
    found = finite_failure_metrics(
        bytes_of, torch.zeros(1, 1, 2, 2), torch.zeros(1), teacher=Reader(), student=Reader()
    )
    assert found == {"change": 0.2}
