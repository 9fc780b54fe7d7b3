"""Errors of a network's forward say what about the images does not fit it."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from hard_aug.models import Network, Normalized
from hard_aug.models.forward_errors import first_line


def convolutional(channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def flat(features: int = 768) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 5))


@pytest.mark.parametrize(
    ("network", "images", "message"),
    [
        (
            convolutional(),
            torch.rand(8, 32, 32, 3),
            r"failed on images \(8, 32, 32, 3\): they look like channels last; use images\.permute\(0, 3, 1, 2\)",
        ),
        (Normalized(flat(), (0.5,), (0.5,)), torch.rand(2, 16, 16, 1), "they look like channels last"),
        (flat(), torch.rand(2, 32, 32, 3), "they look like channels last"),
        (convolutional(), torch.rand(2, 1, 16, 16), r"takes 3 channels, and they have 1; use images\.expand\(-1, 3"),
        (convolutional(1), torch.rand(2, 3, 16, 16), r"takes 1 channels, and they have 3; use images\.mean\(1"),
        (convolutional(), torch.rand(2, 4, 16, 16), r"they have 4; use images\[:, :3\]"),
        (convolutional(5), torch.rand(2, 3, 16, 16), "takes 5 channels, and they have 3; use a network for 3 channels"),
        (
            convolutional(),
            torch.rand(2, 3, 16, 16).double(),
            r"float64: its weights are .*use images\.to\(torch.float32",
        ),
        (convolutional(), torch.rand(2, 3, 16, 16).half(), r"float16: its weights are .*use images\.to\(torch.float32"),
        (flat().half(), torch.rand(2, 3, 16, 16), r"weights are torch\.float16; use images\.to\(torch.float16"),
        (convolutional().to("meta"), torch.rand(2, 3, 16, 16), r"is on meta and the images are on cpu; use images\.to"),
        (flat(), torch.rand(2, 3, 32, 32), "takes 768 values of an image, and they have 3072; resize the images"),
        (
            nn.Sequential(flat(), nn.BatchNorm1d(5, track_running_stats=False)),
            torch.rand(1, 3, 16, 16),
            "failed on a single image, of which its BatchNorm has no statistics .* use larger batches",
        ),
    ],
)
def test_what_does_not_fit(network: nn.Module, images: Tensor, message: str) -> None:
    for run in (Network(network, name="teacher").evaluate, Network(network, name="teacher").training_logits):
        with pytest.raises(ValueError, match=message) as caught:
            run(images)
        assert str(caught.value).startswith("the teacher ")
        assert first_line(caught.value.__cause__ or ValueError()) in str(caught.value)  # torch's own words stay


def test_images_that_fit_are_not_blamed() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = convolutional()

        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError(f"boom {len(self.network(images))}")

    with pytest.raises(RuntimeError, match="boom 2") as caught:
        Network(Broken(), name="student").evaluate(torch.rand(2, 3, 16, 16))
    assert caught.value.__notes__ == ["(in the student's forward on images (2, 3, 16, 16), torch.float32)"]


def test_memory_errors_are_raised_as_they_are() -> None:
    class Large(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError) as caught:
        Network(Large(), name="student").evaluate(torch.rand(2, 32, 32, 3))
    assert not hasattr(caught.value, "__notes__")


def test_a_cast_by_autocast_is_no_mistake() -> None:
    network = Network(convolutional(), name="teacher")
    with torch.autocast("cpu", torch.bfloat16):
        assert network.evaluate(torch.rand(2, 3, 16, 16).bfloat16()).shape == (2, 5)
        with pytest.raises(ValueError, match="float64: its weights are"):
            network.evaluate(torch.rand(2, 3, 16, 16).double())


def test_probabilities_in_place_of_logits_are_warned_of_once() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softmax(1))
    network = Network(module, name="teacher")
    with pytest.warns(UserWarning, match="the teacher returns probabilities"):
        network.evaluate(torch.rand(4, 3, 2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network.evaluate(torch.rand(5, 3, 2, 2))
        network.check_gradient(torch.rand(5, 3, 2, 2))
        for logits in (nn.Identity(), nn.ReLU(), nn.LogSoftmax(1)):
            Network(nn.Sequential(module[:2], logits), name="teacher").evaluate(torch.rand(4, 3, 2, 2))
