"""Spurious ImageNet's mAUC: both definitions by hand, and its folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hard_aug.evaluation import mauc, spurious_mauc
from hard_aug.evaluation.spurious_imagenet import list_spurious_images, list_validation_images
from tests.helpers.spurious_parts import write_spurious_imagenet


def one(high: list[float], low: list[float]) -> tuple[float, float]:
    found = mauc({3: torch.tensor(high)}, {3: torch.tensor(low)})
    return found["auroc"], found["average_precision"]


@pytest.mark.parametrize(
    ("high", "low", "auroc", "precision"),
    [
        ([0.9, 0.8], [0.1, 0.2, 0.3], 1, 1),
        ([0.1, 0.2], [0.8, 0.9], 0, (1 / 3 + 2 / 4) / 2),
        ([0.5, 0.5], [0.5, 0.5, 0.5], 0.5, 2 / 5),
        # ranks: high, low, high, low: 3 of 4 pairs are in order; precision 1/1 and 2/3 at the positives
        ([0.9, 0.5], [0.7, 0.3], 3 / 4, (1 + 2 / 3) / 2),
        # a tie is half a pair in one and a common threshold in the other
        ([0.9, 0.5], [0.5, 0.3], 3.5 / 4, (1 + 2 / 3) / 2),
    ],
)
def test_both_definitions_by_hand(high: list[float], low: list[float], auroc: float, precision: float) -> None:
    assert one(high, low) == pytest.approx((auroc, precision))


def test_the_definitions_differ_and_the_score_is_the_mean_over_classes() -> None:
    high = {7: torch.tensor([0.9, 0.5]), 2: torch.tensor([0.4])}
    low = {2: torch.tensor([0.1] * 9), 7: torch.tensor([0.7, 0.3])}
    found = mauc(high, low)
    assert found["auroc"] == pytest.approx((3 / 4 + 1) / 2)
    assert found["average_precision"] == pytest.approx((5 / 6 + 1) / 2)
    assert found["auroc"] != pytest.approx(found["average_precision"])
    assert list(found["per_class"]) == [2, 7]
    assert found["per_class"][2]["spurious"] == 9
    assert found["per_class"][7]["validation_probability"] == pytest.approx(0.7)
    # the average precision depends on the shares, the area does not
    assert one([0.9, 0.5], [0.7, 0.3] * 10)[0] == pytest.approx(3 / 4)
    assert one([0.9, 0.5], [0.7, 0.3] * 10)[1] < 0.7


@pytest.mark.parametrize(
    ("high", "low"),
    [
        ({}, {}),
        ({1: torch.ones(2)}, {2: torch.ones(2)}),
        ({1: torch.ones(2)}, {1: torch.ones(0)}),
        ({1: torch.tensor([0.5, torch.nan])}, {1: torch.ones(2)}),
    ],
)
def test_invalid_scores_raise(high: dict[int, Tensor], low: dict[int, Tensor]) -> None:
    with pytest.raises(ValueError, match="expected"):
        mauc(high, low)


class ColorModel(nn.Module):
    """Logits are the mean red, green and blue: class 0 is seen in red, class 1 in green."""

    def __init__(self, scale: float = 5.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.batches: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(tuple(images.shape))
        if self.training:
            raise AssertionError("expected evaluation mode")
        return self.scale * images.mean((2, 3))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_spurious_imagenet(tmp_path)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_model_on_folders(folders: tuple[Path, Path], batch_size: int) -> None:
    model = ColorModel().train()
    found = spurious_mauc(model, *folders, size=16, batch_size=batch_size, classes=3)
    assert model.training
    assert model.scale.grad is None
    assert max(shape[0] for shape in model.batches) <= batch_size
    assert {shape[1:] for shape in model.batches} == {(3, 16, 16)}
    tench, goldfish = found["per_class"][0], found["per_class"][1]
    assert (tench["auroc"], tench["average_precision"]) == (1, 1)
    assert (tench["validation"], tench["spurious"]) == (2, 3)
    # both positives lie behind the 3 greener negatives and before the 3 red ones
    assert goldfish["auroc"] == pytest.approx(1 / 2)
    assert goldfish["average_precision"] == pytest.approx(2 / 5)
    assert (goldfish["validation"], goldfish["spurious"]) == (2, 6)
    assert found["auroc"] == pytest.approx(3 / 4)
    assert found["average_precision"] == pytest.approx(7 / 10)
    shares = torch.tensor([10, 120, 10]).double().div(255).mul(5).softmax(0)
    assert goldfish["validation_probability"] == pytest.approx(float(shares[1]), abs=1e-5)
    json.dumps(found)


def test_probabilities_that_are_1_in_float32_do_not_tie(folders: tuple[Path, Path]) -> None:
    scale = 45.0
    logits = torch.tensor([[10, 240, 10], [10, 120, 10]]) / 255 * scale  # a spurious image of class 1, and a real one
    assert logits.softmax(1)[:, 1].tolist() == [1, 1]
    found = spurious_mauc(ColorModel(scale), *folders, size=16, classes=3)
    assert found["per_class"][1]["auroc"] == pytest.approx(1 / 2)  # with ties it would be 3 / 4


def test_models_that_do_not_fit(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=r"logits \(11, 3\)|logits \(4, 3\)"):
        spurious_mauc(ColorModel(), *folders, size=16)
    with pytest.raises(ValueError, match="below classes=1"):
        spurious_mauc(ColorModel(), *folders, size=16, classes=1)
    with pytest.raises(ValueError, match="the model returned NaN or infinite logits"):
        spurious_mauc(ColorModel(scale=float("nan")), *folders, size=16, classes=3)
    with pytest.raises(ValueError, match="batch_size=0"):
        spurious_mauc(ColorModel(), *folders, size=16, classes=3, batch_size=0)


def test_folders_with_mistakes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    spurious, validation = folders
    assert {index: len(paths) for index, paths in list_spurious_images(spurious).items()} == {0: 3, 1: 6}
    with pytest.raises(FileNotFoundError, match="YanNeu/spurious_imagenet"):
        list_spurious_images(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="WordNet id"):
        list_validation_images(tmp_path / "nowhere", [0])
    with pytest.raises(FileNotFoundError, match="no folder n02206856 or 309 for class 309"):
        list_validation_images(validation, [0, 309])
    with pytest.raises(ValueError, match="has no folder"):
        list_spurious_images(validation / "n01440764")
    with pytest.raises(ValueError, match=r"expected a name with class_<index>"):
        list_spurious_images(validation)
    (spurious / "some_class_309_bee_2").mkdir()
    with pytest.raises(ValueError, match="some_class_309_bee_2 has no image"):
        list_spurious_images(spurious)
    (validation / "2").mkdir()
    (validation / "n01484850" / "unused.JPEG").unlink()
    with pytest.raises(ValueError, match="n01484850 has no image"):
        list_validation_images(validation, [2])
    (validation / "1" / "0.png").write_bytes(b"no")
    (spurious / "some_class_309_bee_2").rmdir()
    with pytest.raises(ValueError, match=r"0\.png cannot be decoded"):
        spurious_mauc(ColorModel(), spurious, validation, size=16, classes=3)
