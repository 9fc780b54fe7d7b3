"""`CleanBatch`: slices, and the list of its tensors."""

from __future__ import annotations

import pytest
import torch

from hard_aug.inner_loop.clean_batch import CleanBatch
from hard_aug.objectives import Reference
from hard_aug.transforms import Context

LABELS = torch.arange(4)


def batch(**context: torch.Tensor) -> CleanBatch:
    images, logits = torch.rand(4, 1, 2, 2), torch.rand(4, 3)
    return CleanBatch(images, Reference(logits, student_logits=logits + 1, labels=LABELS), Context(**context))


def test_the_first_images_come_with_all_that_belongs_to_them() -> None:
    whole = batch(labels=LABELS, noise=torch.rand(4, 1, 2, 2))
    first = whole.first(2)
    assert len(first) == 2
    for found, given in zip(first.tensors(), whole.tensors(), strict=True):
        assert (found is None) == (given is None)
        if found is not None and given is not None:
            assert torch.equal(found, given[:2])


def test_the_whole_batch_is_the_same_object() -> None:
    """Transforms with a cache recognise the clean images by their tensor."""
    whole = batch()
    assert whole.first(4) is whole


def test_tensors_round_trip() -> None:
    whole = batch(
        labels=LABELS,
        partner_images=torch.rand(4, 1, 2, 2),
        partner_logits=torch.rand(4, 3),
        noise=torch.rand(4, 1, 2, 2),
    )
    other = CleanBatch.from_tensors(whole.tensors())
    assert other.images is whole.images
    for name in ("teacher_logits", "student_logits", "labels"):
        assert getattr(other.reference, name) is getattr(whole.reference, name)
    for name in ("labels", "partner_images", "partner_logits", "noise"):
        assert getattr(other.context, name) is getattr(whole.context, name)


def test_a_batch_without_images_raises() -> None:
    with pytest.raises(ValueError, match="expected images and the teacher's logits on them, got None"):
        CleanBatch.from_tensors([None] * 8)
