"""The choice of the images that an evaluation uses."""

from __future__ import annotations

import torch

from hard_aug.utils.image_choice import choose

IMAGES, LABELS = torch.arange(10.0).view(10, 1, 1, 1), torch.arange(10)


def test_few_images_are_all_taken_as_they_are() -> None:
    for limit in (None, 10, 11):
        images, labels = choose(IMAGES, LABELS, limit=limit, seed=0)
        assert images is IMAGES
        assert labels is LABELS


def test_of_more_some_are_taken_in_their_order_with_their_labels() -> None:
    images, labels = choose(IMAGES, LABELS, limit=4, seed=0)
    assert labels is not None
    assert images.flatten().tolist() == labels.tolist() == sorted(labels.tolist())
    assert len(set(labels.tolist())) == 4
    assert torch.equal(images, choose(IMAGES, None, limit=4, seed=0)[0])
    assert any(not torch.equal(images, choose(IMAGES, None, limit=4, seed=seed)[0]) for seed in range(1, 5))
