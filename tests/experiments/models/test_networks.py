"""The networks: their sizes, the images they take, and errors."""

from __future__ import annotations

import pytest
import torch

from experiments.models import ConvTeacher, MLPStudent, OrbitTeacher, multiply_adds, small_vit, timm_network


def test_the_sizes_of_the_networks() -> None:
    assert multiply_adds(ConvTeacher(), (1, 28, 28)) < 2e6
    assert multiply_adds(ConvTeacher(), (1, 40, 40)) < 4e6
    assert sum(p.numel() for p in MLPStudent().parameters()) == 472_032
    assert sum(p.numel() for p in OrbitTeacher().parameters()) == 112_650


def test_a_count_leaves_the_mode_and_the_statistics() -> None:
    model = ConvTeacher().train()
    before = model.features[1].running_mean.clone()
    assert multiply_adds(model, (1, 28, 28)) == multiply_adds(model.eval(), (1, 28, 28))
    assert torch.equal(model.train().features[1].running_mean, before)


def test_average_pooling_ignores_positions_and_a_flat_head_does_not() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., 8:12, 8:12] = 1
    moved = image.roll(8, -1)
    for pooling in (True, False):
        torch.manual_seed(0)
        model = ConvTeacher(pooling=pooling, size=32).eval()
        assert torch.allclose(model(image), model(moved), atol=1e-5) == pooling


def test_the_vision_transformer() -> None:
    assert 1.5e6 < multiply_adds(small_vit(), (1, 28, 28)) < 3e6
    assert small_vit(size=32, patch=8, channels=3, classes=7)(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(ValueError, match=r"patch=7, .*: expected a patch that divides the image size, 32"):
        small_vit(size=32)


def test_unavailable_timm_models(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"student\.name=resnet18, or teacher\.name=resnet50"):
        timm_network(None)
    with pytest.raises(ValueError, match="resnet8"):
        timm_network("resnet8")

    def unavailable(*arguments: object, **settings: object) -> None:
        raise OSError("no connection")

    monkeypatch.setattr("experiments.models.networks.timm_model", unavailable)
    with pytest.raises(FileNotFoundError, match=r"timm's weights of resnet18 .*\n.*teacher\.weights=<path>"):
        timm_network("resnet18", pretrained=True)
