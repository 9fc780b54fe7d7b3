"""Image sets in memory: pairs for a data loader, selections, concatenation and splits."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Subset

from hard_aug.data import ConcatImageSet, ImageSet, Splits, hold_out


def images_of(count: int, first: int = 0) -> ImageSet:
    """Images of one value each, `first`, `first + 1`, ..., which are their labels too."""
    labels = torch.arange(first, first + count)
    return ImageSet(labels.float()[:, None, None, None].expand(-1, 3, 4, 5).contiguous() / 255, labels)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_gives_images_and_labels(workers: int) -> None:
    for images in (images_of(7), ConcatImageSet([images_of(2), images_of(5, first=2)])):
        batches = list(DataLoader(images, batch_size=3, num_workers=workers))
        assert [len(labels) for _, labels in batches] == [3, 3, 1]
        assert torch.equal(torch.cat([x for x, _ in batches]), images.images)
        assert torch.equal(torch.cat([y for _, y in batches]), torch.arange(7))
        assert [label for _, label in images] == list(range(7))  # iteration ends
        assert [label for _, label in Subset(images, [5, 1])] == [5, 1]
        image, label = images[-1]
        assert (image.shape, image.dtype, label) == ((3, 4, 5), torch.float32, 6)
        assert images[torch.tensor(4)][1] == 4  # a scalar tensor is one index
        for beyond in (7, -8):
            with pytest.raises(IndexError):
                images[beyond]
        with pytest.raises(TypeError):
            images["3"]


def test_selections() -> None:
    images = images_of(7)
    for rows in (slice(2, 5), torch.tensor([2, 3, 4]), (images.labels > 1) & (images.labels < 5)):
        found = images[rows]
        assert isinstance(found, ImageSet)
        assert found.labels.tolist() == [2, 3, 4]
        assert torch.equal(found.images, images.images[2:5])
    assert len(images[torch.empty(0, dtype=torch.int64)]) == 0
    assert images.materialize() is images
    assert images.class_subset is None
    assert (images.shape, images.device) == ((3, 4, 5), torch.device("cpu"))
    assert repr(images) == "ImageSet(7 images, (3, 4, 5))"


def test_a_concatenation_is_one_image_set() -> None:
    parts = (images_of(3), images_of(4, first=3))
    both = ConcatImageSet(parts)
    assert torch.equal(both.images, images_of(7).images)
    for rows in (slice(1, 5), torch.tensor([6, 0, 3, 3]), both.labels % 2 == 0, slice(9, 12)):
        assert both[rows].labels.tolist() == images_of(7).labels[rows].tolist()
        assert torch.equal(both[rows].images, images_of(7).images[rows])
    whole = both.to(torch.device("cpu")).materialize()
    assert type(whole) is ImageSet
    assert torch.equal(whole.images, both.images)
    assert repr(both) == "ConcatImageSet(7 images, (3, 4, 5))"
    with pytest.raises(ValueError, match="of the same shape"):
        ConcatImageSet((parts[0], ImageSet(torch.zeros(1, 1, 4, 5), torch.zeros(1, dtype=torch.int64))))
    with pytest.raises(ValueError, match="at least one part"):
        ConcatImageSet(())


@pytest.mark.parametrize(("images", "labels"), [((2, 3, 4), (2,)), ((2, 1, 4, 4), (3,)), ((2, 1, 4, 4), (2, 1))])
def test_images_and_labels_have_to_match(images: tuple[int, ...], labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, C, H, W\) and \(N,\)"):
        ImageSet(torch.zeros(images), torch.zeros(labels, dtype=torch.int64))


def test_held_out_rows_are_the_same_in_every_run() -> None:
    kept, held_out = hold_out(10, 3)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(10))
    assert held_out.tolist() == [0, 4, 8]
    splits = Splits(images_of(10)[kept], images_of(10)[held_out], images_of(2), ("a", "b"))
    moved = splits.to(torch.device("cpu"))
    assert moved.validation.labels.tolist() == held_out.tolist()
    assert moved.classes == ("a", "b")
