"""Mixed views: how images are combined, which views CutMixPick keeps, and that both networks see consistent ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from torch import Tensor, nn

LABELS = torch.arange(8) % 5


def test_mixup_and_cutmix_combine_an_image_with_its_neighbour(build: Any, teacher: nn.Module) -> None:
    images = torch.rand(8, 1, 12, 12)
    neighbours = images.roll(1, 0)
    mixed = build("mixup", teacher, teacher).second_view(images, LABELS)
    share = ((mixed - neighbours) / (images - neighbours)).median()
    assert 0 < float(share) < 1
    assert torch.allclose(mixed, share * images + (1 - share) * neighbours, atol=1e-5)
    cut = build("cutmix", teacher, teacher, "seed=2").second_view(images, LABELS)
    own = cut == images
    assert bool((own | (cut == neighbours)).all())
    assert torch.equal(own[0], own[5])
    assert 0 < float(own.float().mean()) < 1


def test_cutmixpick_keeps_the_views_with_the_highest_entropy(build: Any, teacher: nn.Module) -> None:
    images = torch.rand(8, 1, 12, 12)
    plain = build("cutmix", teacher, teacher)
    picking = build("cutmixpick", teacher, teacher, "method.candidates=3")
    with torch.no_grad():
        picked = picking.second_view(images, LABELS)
        torch.manual_seed(int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(0))))
        candidates = torch.cat([plain.draw(images) for _ in range(3)])
        entropy = torch.distributions.Categorical(logits=teacher(candidates)).entropy()
        found = torch.distributions.Categorical(logits=teacher(picked)).entropy()
    assert torch.allclose(found.sort().values, entropy.sort().values[-8:], atol=1e-6)
    assert float(found.mean()) > float(entropy.mean())


@pytest.mark.parametrize("candidates", ["1", "2.5"])
def test_a_choice_requires_candidates(build: Any, teacher: nn.Module, candidates: str) -> None:
    with pytest.raises(ValueError, match=r"candidates=.*: expected an integer >= 2"):
        build("cutmixpick", teacher, teacher, f"method.candidates={candidates}")


@pytest.mark.parametrize(("name", "alpha"), [("mixup", "0"), ("cutmix", "-1")])
def test_alpha_is_positive(build: Any, teacher: nn.Module, name: str, alpha: str) -> None:
    with pytest.raises((InstantiationException, ValueError), match=r"alpha|GreaterThan"):
        build(name, teacher, teacher, f"method.transform.alpha={alpha}")


@pytest.mark.parametrize("crop", [None, 0.3])
def test_both_networks_see_the_same_mixed_views(
    build: Any, teacher: nn.Module, plain_student: nn.Module, crop: float | None
) -> None:
    shown: dict[str, list[Tensor]] = {"teacher": [], "student": []}
    for name, model in (("teacher", teacher), ("student", plain_student)):
        model.register_forward_pre_hook(lambda module, inputs, seen=shown[name]: seen.append(inputs[0]))
    images = torch.rand(8, 1, 12, 12)
    build("consistent_mixup", teacher, plain_student, f"method.crop={crop or 'null'}").loss(images, LABELS)
    (seen,) = shown["student"]
    assert torch.equal(torch.cat(shown["teacher"]), seen)
    assert len(seen) == 16
    assert not torch.equal(*seen.split(8))
    if crop is None:  # a mix of each image with one other image
        for view, image in zip(seen[:8], images, strict=True):
            left = []
            for other in images:
                own, mixed = (image - other).reshape(-1, 1), (view - other).reshape(-1, 1)
                left.append((mixed - own * torch.linalg.lstsq(own, mixed).solution).abs().max())
            assert min(left) < 1e-4


def test_a_crop_keeps_a_fraction(build: Any, teacher: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"crop=0\.0: expected a fraction in \(0, 1\]"):
        build("consistent_mixup", teacher, teacher, "method.crop=0.0")
