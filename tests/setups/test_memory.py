"""Nothing grows with the number of steps, whatever the loop leaves out or keeps."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.policies import Conditional, Search
from hard_aug.schedules import Alternating, Joint, Threshold
from hard_aug.transforms import Affine, Compose, PatchMix
from tests.helpers import generative_parts

SPEC = Affine().spec
SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "alternating": lambda: {"schedule": Alternating()},
    "joint": lambda: {"schedule": Joint()},
    "joint, now and then": lambda: {"schedule": Joint(every=3, fraction=0.5)},
    "threshold": lambda: {"schedule": Threshold(max_steps=1)},
    "search": lambda: {"policy": Search(SPEC, candidates=2, steps=1)},
    "conditional": lambda: {"policy": Conditional(SPEC, channels=1, width=4), "batch_norm": "split"},
    "mix": lambda: {"transform": Compose(PatchMix(image_size=12, patch_size=4), Affine()), "schedule": Joint()},
}


def forgotten_loss(augmenter: HardAugmenter, images: Tensor) -> object:
    return augmenter(images)


def forgotten_backward(augmenter: HardAugmenter, images: Tensor) -> object:
    return augmenter(images).loss()


def second_loss(augmenter: HardAugmenter, images: Tensor) -> object:
    hard = augmenter(images)
    hard.loss()
    hard.loss().backward()
    return hard.disagreement


def own_loss(augmenter: HardAugmenter, images: Tensor) -> object:
    hard = augmenter(images)
    augmenter._two_view_loss.student(hard.images).sum().backward()  # that of the caller
    return hard


def evaluation(augmenter: HardAugmenter, images: Tensor) -> object:
    augmenter._two_view_loss.student.eval()
    with torch.no_grad():
        return augmenter(images).loss()


def live_tensors() -> int:
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of objects that are looked at
        return sum(isinstance(one, Tensor) for one in gc.get_objects())


def growth(augmenter: HardAugmenter, images: Tensor, use: Callable[[HardAugmenter, Tensor], object]) -> int:
    """Return how many tensors more are alive after 30 steps than after 6, at equal points of a schedule's cycle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these learn nothing, and hear of it
        for step in range(30):
            use(augmenter, images)
            if step == 5:
                before = live_tensors()
    return live_tensors() - before


@pytest.mark.parametrize("use", [forgotten_loss, forgotten_backward, second_loss, own_loss, evaluation])
@pytest.mark.parametrize("name", SETTINGS)
def test_live_tensors_do_not_grow(
    teacher: nn.Module, student: nn.Module, images: Tensor, name: str, use: Callable[[HardAugmenter, Tensor], object]
) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=student, **{"transform": Affine(), **SETTINGS[name]()})
    assert growth(augmenter, images, use) <= 0


@pytest.mark.parametrize("name", SETTINGS)
def test_a_loss_that_is_kept_keeps_no_images(teacher: nn.Module, student: nn.Module, images: Tensor, name: str) -> None:
    """`total += loss` and `losses.append(loss)` are common."""
    losses = []

    def keep(augmenter: HardAugmenter, images: Tensor) -> None:
        losses.append(augmenter(images).loss())
        losses[-1].backward()

    def of_images() -> int:
        gc.collect()
        return sum(type(one) is Tensor and one.shape == images.shape for one in gc.get_objects())

    augmenter = HardAugmenter(teacher=teacher, student=student, **{"transform": Affine(), **SETTINGS[name]()})
    before = of_images()
    assert growth(augmenter, images, keep) <= 2 * 24  # the loss itself, and a scalar
    assert of_images() <= before + 8  # of the last step


@pytest.mark.slow
def test_caches_of_transforms_do_not_grow(teacher: nn.Module, student: nn.Module) -> None:
    from hard_aug.transforms import VAELatent

    transform = VAELatent(generative_parts.autoencoder_tiny(), shift=1.0)
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(512, 5)) for _ in range(2)]
    augmenter = HardAugmenter(teacher=networks[0], student=networks[1], transform=transform, schedule=Joint())
    assert growth(augmenter, torch.rand(4, 2, 16, 16), lambda made, images: made(images.clone())) <= 0
