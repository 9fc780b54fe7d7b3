"""Image sets with a group annotation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from hard_aug.data import Grouped, GroupedSplits
from tests.helpers.group_parts import ATTRIBUTES, BIRDS, CLASSES, grouped


def test_a_data_loader_gives_images_labels_and_groups() -> None:
    birds = grouped(*BIRDS)
    image, label, group = birds[8]
    assert torch.equal(image, birds.images[8])
    assert (label, group) == (1, 3)
    batches = list(DataLoader(birds, batch_size=5))
    assert [len(images) for images, _, _ in batches] == [5, 4]
    images, labels, groups = (torch.cat(column) for column in zip(*batches, strict=True))
    assert torch.equal(images, birds.images)
    assert torch.equal(labels, birds.labels)
    assert torch.equal(groups, birds.group)


def test_selections_of_grouped_images_stay_grouped() -> None:
    birds = grouped(*BIRDS)
    assert birds.group.tolist() == [0, 0, 0, 0, 1, 1, 3, 3, 3]
    assert birds.group_names == ("landbird/land", "landbird/water", "waterbird/land", "waterbird/water")
    for index in (slice(5, None), torch.tensor([5, 6, 7, 8]), torch.arange(9) > 4):
        part = birds[index].to(torch.device("cpu"))
        assert isinstance(part, Grouped)
        assert part.group.tolist() == [1, 3, 3, 3]
        assert part.classes == CLASSES
    assert repr(birds) == "Grouped(9 images, (1, 2, 2))"
    splits = GroupedSplits(birds, birds, birds, CLASSES, ATTRIBUTES).to(torch.device("cpu"))
    assert splits.test.counts() == birds.counts()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"labels": torch.tensor([0, 2])}, "from 0 to 2"),
        ({"spurious": torch.tensor([-1, 0])}, "from -1 to 0"),
        ({"labels": torch.tensor([0, 1, 1])}, r"labels .* \(3,\)"),
        ({"spurious": torch.tensor([0.0, 1.0])}, "float32"),
        ({"images": torch.zeros(2, 3)}, "expected floats"),
        ({"images": torch.zeros(2, 1, 2, 2, dtype=torch.uint8)}, "uint8"),
        ({"classes": ("bird", "bird")}, "each once"),
        ({"attributes": ()}, "at least one"),
    ],
)
def test_invalid_groups_raise(change: dict[str, Any], match: str) -> None:
    good = grouped([0, 1], [0, 1], [0, 1])
    with pytest.raises(ValueError, match=match):
        replace(good, **change)
