"""The seven simple corruptions."""

from __future__ import annotations

import torch

from experiments.tasks.simple_corruptions import CORRUPTIONS, corrupted
from hard_aug.data import ImageSet


def test_they_are_the_same_at_each_call_and_change_the_image() -> None:
    part = ImageSet(torch.rand(50, 1, 32, 32), torch.arange(50) % 10)
    first, again = corrupted(part), corrupted(part)
    assert list(first) == list(CORRUPTIONS)
    for name, found in first.items():
        assert torch.equal(found.images, again[name].images)
        assert 0 <= float(found.images.min()) <= float(found.images.max()) <= 1
        assert float((found.images - part.images).abs().mean()) > 0.005, name
        assert torch.equal(found.labels, part.labels)


def test_the_documented_strengths() -> None:
    images = torch.full((4, 1, 12, 12), 0.5)
    images[..., :6] = 0.2
    found = corrupted(ImageSet(images, torch.arange(4)))
    assert torch.allclose(found["brightness"].images, images + 0.3)
    assert torch.allclose(found["contrast"].images, 0.35 + 0.3 * (images - 0.35))
    assert float((found["noise"].images - images).std()) < 0.2
    assert torch.allclose(found["pixelate"].images, images)  # whole blocks of three pixels
