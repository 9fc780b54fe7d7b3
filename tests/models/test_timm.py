"""timm models by name: their normalisation, classes, channels and sizes."""

from __future__ import annotations

import sys

import pytest
import timm
import torch

from hard_aug.models import timm_model
from hard_aug.models.timm import for_channels


def test_the_normalisation_is_that_of_timm() -> None:
    model = timm_model("test_resnet", classes=5).eval()
    expected = timm.data.resolve_model_data_config(model.model)
    assert model.mean.flatten().tolist() == pytest.approx(expected["mean"])
    assert model.std.flatten().tolist() == pytest.approx(expected["std"])
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), model.model((images - model.mean) / model.std))
    assert model(images).shape == (2, 5)


def test_sizes() -> None:
    fixed = timm_model("test_vit", classes=3).eval()
    assert fixed.size == timm.data.resolve_model_data_config(fixed.model)["input_size"][1:]
    assert fixed(torch.rand(2, 3, 40, 50)).shape == (2, 3)
    assert timm_model("test_resnet").size is None
    assert timm_model("test_resnet", size=(24, 24)).size == (24, 24)


def test_values_for_other_channels_are_the_mean() -> None:
    assert for_channels((0.1, 0.2, 0.6), 3) == [0.1, 0.2, 0.6]
    assert for_channels((0.1, 0.2, 0.6), 1) == pytest.approx([0.3])
    assert for_channels((0.5,), 4) == [0.5] * 4


def test_unknown_names_and_a_missing_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"timm knows no model 'resnet19'; similar: .*resnet18"):
        timm_model("resnet19")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"timm_model requires timm: pip install 'hard_aug\[timm\]'"):
        timm_model("resnet18")
