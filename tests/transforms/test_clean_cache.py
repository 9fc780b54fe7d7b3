"""Clean images are encoded once for all renderings of a call; the cache is never used for changed images."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.policies import Search
from hard_aug.transforms import HierarchicalLatent, VAELatent
from hard_aug.transforms.clean_cache import CleanImageCache
from tests.generative.test_hierarchical_vae import small
from tests.transforms.test_vae_latent import autoencoder


class Counted:
    def __init__(self) -> None:
        self.calls = 0
        self.kept: CleanImageCache[Tensor] = CleanImageCache()

    def __call__(self, *given: Tensor) -> Tensor:
        def compute() -> Tensor:
            self.calls += 1
            return 2 * given[0]

        return self.kept(compute, *given)


def test_the_same_tensors_are_computed_once() -> None:
    counted, images, labels = Counted(), torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    assert torch.equal(counted(images, labels), 2 * images)
    counted(images, labels)
    assert counted.calls == 1


@pytest.mark.parametrize("change", ["in place", "another tensor", "other labels", "labels in place", "no labels"])
def test_whatever_changes_is_computed_again(change: str) -> None:
    counted, images, labels = Counted(), torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    counted(images, labels)
    if change == "in place":
        images.add_(1)
    elif change == "another tensor":
        images = images.clone()
    elif change == "other labels":
        labels = labels.clone()
    elif change == "labels in place":
        labels.add_(1)
    out = counted(images) if change == "no labels" else counted(images, labels)
    assert counted.calls == 2
    assert torch.equal(out, 2 * images)


@pytest.mark.slow
def test_a_tensor_that_is_gone_is_not_taken_for_a_new_one() -> None:
    counted = Counted()
    for value in range(5):
        images = torch.full((64, 1, 32, 32), float(value))  # likely in the memory of the former one
        assert float(counted(images).mean()) == 2 * value
        del images
        gc.collect()


def test_inference_tensors_are_not_kept() -> None:
    counted = Counted()
    with torch.inference_mode():
        images = torch.rand(2, 1, 4, 4)
        counted(images)
        counted(images)
    assert counted.calls == 2


def test_a_search_encodes_its_batch_once(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    transform = VAELatent(autoencoder(), shift=2.0)
    encoded: list[int] = []
    encode = transform.codec.encode

    def counted(batch: Tensor) -> Tensor:
        encoded.append(len(batch))
        return encode(batch)

    transform.codec.encode = counted  # type: ignore[method-assign]  # to count what runs
    augmenter = HardAugmenter(
        teacher=teacher,
        student=plain_student,
        transform=transform,
        policy=Search(transform.spec, candidates=3, steps=2),
    )
    augmenter(images)
    assert encoded == [len(images)]
    augmenter(images.clone())
    assert encoded == [len(images)] * 2


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("residual", [True, False])
def test_a_search_in_levels_reconstructs_its_batch_once(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, residual: bool, micro_batch: int | None
) -> None:
    vae = small()
    transform = HierarchicalLatent(vae, residual=residual, micro_batch=micro_batch)
    rows: list[int] = []
    edit = vae.edit

    def counted(batch: Tensor, *rest: Any, **more: Any) -> Tensor:
        rows.append(len(batch))
        return edit(batch, *rest, **more)

    vae.edit = counted  # type: ignore[method-assign]  # to count what runs
    policy = Search(transform.spec, candidates=3, steps=2)
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=transform, policy=policy)
    renderings = 3 + 2 + 1 + 1  # candidates, steps, the end of the ascent, and the one that is returned
    for call in (1, 2):
        augmenter(images.clone())
        assert sum(rows) == call * (renderings + residual) * len(images)
    assert max(rows) == (micro_batch or len(images))


def test_normal_tensors_are_not_kept_in_inference_mode_either() -> None:
    counted, images = Counted(), torch.rand(2, 1, 4, 4)
    with torch.inference_mode():
        assert counted(images).is_inference()
        counted(images)
    assert counted.calls == 2
    assert not counted(images).is_inference()
    with torch.inference_mode():
        counted(images)
    counted(images)
    assert counted.calls == 4  # what was kept outside is still there


@pytest.mark.slow
def test_a_result_goes_with_its_images() -> None:
    counted, images, labels = Counted(), torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    result = weakref.ref(counted(images, labels))
    assert result() is not None
    del images
    gc.collect()
    assert result() is None
    assert counted.kept._given == []
    # Those of an earlier batch take nothing of a later one with them.
    first, second = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    counted(first)
    counted(second)
    del first
    gc.collect()
    counted(second)
    assert counted.calls == 3


@pytest.mark.parametrize("sampler", ["pickle", "deepcopy", "copy"])
def test_what_is_remembered_does_not_travel(sampler: str, images: Tensor) -> None:
    transform = VAELatent(autoencoder(), shift=2.0)
    u = torch.full((len(images), transform.size), 0.5)
    out = transform(images, u)
    assert transform._clean._result is not None
    if sampler == "pickle":
        other = pickle.loads(pickle.dumps(transform))
    elif sampler == "deepcopy":
        other = copy.deepcopy(transform)
    else:
        other = copy.copy(transform)
        other._clean = copy.copy(transform._clean)
    assert other._clean._result is None
    assert transform._clean._result is not None
    assert torch.equal(other(images, u), out)
    assert other._clean._result is not None
