"""The loader's normalisation is said once: undone on entry, put back before networks that expect it."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from hard_aug import HardAugmenter, Normalized
from hard_aug.losses import distillation_loss
from hard_aug.objectives import ResponseChange
from hard_aug.policies import Search
from hard_aug.schedules import Alternating, Joint, Threshold
from hard_aug.transforms import Affine, Compose, PatchMix

MEAN, STD = (0.45, 0.5, 0.4), (0.22, 0.25, 0.2)
OTHER = (0.3, 0.3, 0.3), (0.1, 0.2, 0.3)
SETTINGS: dict[str, Any] = {
    "alternating": lambda: {"schedule": Alternating()},
    "joint": lambda: {"schedule": Joint()},
    "threshold": lambda: {"schedule": Threshold(max_steps=1)},
    "search": lambda: {"policy": Search(Affine().spec, candidates=2, steps=1)},
    "clean student": lambda: {"objective": ResponseChange(), "schedule": Alternating()},
    "mix": lambda: {"transform": Compose(Affine(), PatchMix(image_size=10, patch_size=5)), "schedule": Alternating()},
}


def bare_networks() -> tuple[nn.Module, nn.Module]:
    """Networks that expect normalised images."""
    torch.manual_seed(3)
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(256, 4)).eval()
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(256, 4))
    return teacher, student


def plain_images() -> Tensor:
    return torch.rand(6, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def normalised(images: Tensor, mean: Any = MEAN, std: Any = STD) -> Tensor:
    return v2.functional.normalize(images, list(mean), list(std))


def trained(
    teacher: nn.Module, student: nn.Module, inside: nn.Module, images: Tensor, **settings: Any
) -> dict[str, Any]:
    """Train for four steps; return everything that has been seen and learned."""
    augmenter = HardAugmenter(teacher=teacher, student=student, **{"transform": Affine(), **settings})
    optimizer = torch.optim.SGD(inside.parameters(), lr=0.1)
    for step in range(4):
        hard = augmenter(images.roll(step, 0))
        before = hard.disagreement
        loss = hard.loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = augmenter.state_dict()
    return {
        "images": hard.images,
        "logits": hard.teacher_logits,
        "disagreement": before,
        "loss": loss.detach(),
        "policy": dict(state["policy"]),
        "student": {name: value.clone() for name, value in inside.state_dict().items()},
    }


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("wrapped", ["none", "teacher", "student", "both"])
def test_networks_get_what_they_expect(name: str, wrapped: str) -> None:
    """Those that normalise by themselves images in [0, 1], the others normalised ones: all the same as by hand."""
    images = plain_images()
    teacher, student = bare_networks()
    by_hand = trained(
        Normalized(teacher, MEAN, STD), Normalized(student, MEAN, STD), student, images, **SETTINGS[name]()
    )
    teacher, student = bare_networks()
    given = [
        Normalized(network, MEAN, STD) if wrapped in (which, "both") else network
        for which, network in (("teacher", teacher), ("student", student))
    ]
    found = trained(given[0], given[1], student, normalised(images), normalization=(MEAN, STD), **SETTINGS[name]())
    torch.testing.assert_close(found, by_hand, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["alternating", "joint", "search"])
def test_a_pair_for_each_network(name: str) -> None:
    """The loader's is the student's."""
    images = plain_images()
    teacher, student = bare_networks()
    by_hand = trained(Normalized(teacher, *OTHER), Normalized(student, MEAN, STD), student, images, **SETTINGS[name]())
    teacher, student = bare_networks()
    both = {"teacher": OTHER, "student": (MEAN, STD)}
    found = trained(teacher, student, student, normalised(images), normalization=both, **SETTINGS[name]())
    torch.testing.assert_close(found, by_hand, rtol=1e-3, atol=1e-4)


def test_the_teacher_stays_right() -> None:
    """A teacher that is right on the loader's images is right inside."""
    images = plain_images()
    teacher, student = bare_networks()
    labels = teacher(normalised(images)).argmax(1)
    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine(), normalization=(MEAN, STD))(
        normalised(images)
    )
    assert torch.equal(hard.clean_teacher_logits.argmax(1), labels)
    assert torch.allclose(hard.clean_teacher_logits, teacher(normalised(images)), atol=1e-4)
    assert torch.allclose(hard.clean_images, images, atol=1e-6)
    assert 0 <= float(hard.images.min()) <= float(hard.images.max()) <= 1


def test_a_loop_of_ones_own_feeds_normalised_images() -> None:
    teacher, student = bare_networks()
    student.eval()
    given = normalised(plain_images())
    hard = HardAugmenter(teacher=teacher, student=student, transform=Affine(), normalization=(MEAN, STD))(given)
    assert torch.allclose(hard.normalized(), normalised(hard.images), atol=1e-6)
    parts = [
        distillation_loss(student_logits=student(views), teacher_logits=logits)
        for views, logits in ((given, hard.clean_teacher_logits), (hard.normalized(), hard.teacher_logits))
    ]
    assert torch.allclose(hard.loss(), (parts[0] + parts[1]) / 2, atol=1e-5)
    plain = HardAugmenter(
        teacher=Normalized(teacher, MEAN, STD), student=Normalized(student, MEAN, STD), transform=Affine()
    )(plain_images())
    assert plain.normalized() is plain.images


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    teacher, student = (Normalized(network, MEAN, STD) for network in bare_networks())
    plain = plain_images()
    plain[0], plain[1] = 0, 1
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), normalization=(MEAN, STD))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        hard = augmenter(normalised(plain).to(dtype))
    tolerance = 1e-6 if dtype == torch.float32 else 5e-3
    assert hard.clean_images.dtype == hard.images.dtype == hard.normalized().dtype == dtype
    assert torch.allclose(hard.clean_images.float(), plain, atol=tolerance)
    assert float(hard.clean_images.min()) >= 0
    assert float(hard.clean_images.max()) <= 1
    if dtype == torch.float32:
        expected = HardAugmenter(teacher=teacher, student=student, transform=Affine())(plain)
        assert torch.allclose(hard.images, expected.images, atol=1e-5)


def test_images_that_are_not_normalised_warn_once() -> None:
    teacher, student = bare_networks()
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), normalization=(MEAN, STD))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            augmenter(plain_images())
    assert [str(one.message).partition(" of the first")[0] for one in said] == [
        "normalization=(mean, std) is undone, and no value"
    ]


def test_a_normalisation_that_does_not_fit() -> None:
    teacher, student = bare_networks()

    def augmenter_of(**settings: Any) -> HardAugmenter:
        return HardAugmenter(teacher=teacher, student=student, transform=Affine(), **settings)

    images = plain_images()
    with pytest.raises(ValueError, match="once normalization is undone: expected"):
        augmenter_of(normalization=(MEAN, (1.0, 1.0, 1.0)))(3 * images)
    with pytest.raises(ValueError, match=r"say so with normalization=\(mean, std\)\. If"):
        augmenter_of()(3 * images - 1)
    with pytest.raises(TypeError, match=r"normalization=0\.5: expected \(mean, std\)"):
        augmenter_of(normalization=0.5)
    with pytest.raises(TypeError, match=r"expected \(mean, std\), or \{\"teacher\": \(mean, std\), \"student\""):
        augmenter_of(normalization={"teacher": (MEAN, STD)})
    with pytest.raises(ValueError, match="normalization has 1 channels, and the images have 3"):
        augmenter_of(normalization=((0.5,), (0.2,)))(images)
    with pytest.raises(ValueError, match=r"units of \[0, 255\]"):
        augmenter_of(normalization=((120.0,) * 3, (50.0,) * 3))


@pytest.mark.parametrize("normalises", [False, True])
def test_an_erasing_that_leaves_the_range_is_clamped_if_asked(normalises: bool) -> None:
    """As timm's random erasing does in its mode `pixel`: normal numbers, after the normalisation."""
    teacher, student = bare_networks()
    settings = {"normalization": (MEAN, STD)} if normalises else {}
    images = normalised(plain_images()) if normalises else plain_images()
    images[:, :, 2:5, 3:7] = torch.randn(6, 3, 3, 4, generator=torch.Generator().manual_seed(2))
    refusing, clamping = (
        HardAugmenter(teacher=teacher, student=copy.deepcopy(student), transform=Affine(), **settings, **given)
        for given in ({}, {"out_of_range": "clamp"})
    )
    with pytest.raises(ValueError, match=r"timm's modes 'rand' and 'pixel'.*out_of_range='clamp'"):
        refusing(images)
    before = images.clone()
    hard = clamping(images)
    expected = images * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None] if normalises else images
    assert torch.allclose(hard.clean_images, expected.clamp(0, 1), atol=1e-6)
    assert torch.equal(images, before)
    hard.loss().backward()
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        clamping(images)
