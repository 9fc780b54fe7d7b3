"""Hard views for a fraction of the batch, after a warm-up, and of mixes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from hard_aug import Exploration, HardAugmenter
from hard_aug.losses import distillation_loss
from hard_aug.objectives import ConfidenceGap, Penalty, kl_divergence
from hard_aug.policies import Conditional, Gaussian
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine, PatchMix
from hard_aug.utils.rng import derangement

SCHEDULES = [Alternating(), Threshold()]


def augmenter_of(teacher: nn.Module, student: nn.Module, **parts: Any) -> HardAugmenter:
    return HardAugmenter(teacher=teacher, student=student, **{"transform": Affine(), **parts})


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_fraction_of_the_batch_is_hard(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any
) -> None:
    augmenter = augmenter_of(teacher, plain_student, hard_fraction=0.375, schedule=schedule)
    hard = augmenter(images)
    assert hard.num_hard == 3
    assert not torch.equal(hard.images[:3], images[:3])
    assert torch.equal(hard.images[3:], images[3:])
    assert bool((hard.u[3:] == 0).all())
    assert bool(hard.teacher_consistent[3:].all())
    assert torch.equal(hard.teacher_logits[3:], hard.clean_teacher_logits[3:])
    assert torch.allclose(hard.teacher_logits, teacher(hard.images), atol=1e-5)
    assert hard.disagreement.shape == (8,)
    seen: list[int] = []
    hook = plain_student.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    loss = hard.loss(clean_weight=0.25)
    hook.remove()
    assert seen == [11]
    parts = [
        distillation_loss(student_logits=plain_student(x), teacher_logits=t)
        for x, t in ((images, hard.clean_teacher_logits), (hard.images[:3], hard.teacher_logits[:3]))
    ]
    assert torch.allclose(loss, 0.25 * parts[0] + 0.75 * parts[1])


@pytest.mark.parametrize("schedule", [*SCHEDULES, Alternating(fraction=0.5)])
def test_the_policy_is_learned_from_the_images_that_get_hard_views(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any
) -> None:
    found = []
    for hard_fraction, batch in ((1.0, images[:4]), (0.5, images)):
        augmenter = augmenter_of(teacher, plain_student, hard_fraction=hard_fraction, schedule=schedule)
        for _ in range(2):
            augmenter(batch)
        found.append(torch.cat([p.detach().flatten() for p in augmenter.policy.parameters()]))
    assert torch.allclose(found[0], found[1], atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_warm_up_is_plain_distillation(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any
) -> None:
    augmenter = augmenter_of(teacher, plain_student, warmup_calls=2, schedule=schedule)
    at_once = augmenter_of(teacher, plain_student, schedule=schedule)
    before = augmenter.policy.mean.detach().clone()
    for _ in range(2):
        warm = augmenter(images)
        assert warm.num_hard == 0
        assert torch.equal(warm.images, images)
        expected = distillation_loss(student_logits=plain_student(images), teacher_logits=teacher(images))
        loss = warm.loss(clean_weight=0.1)
        assert torch.allclose(loss, expected)
        loss.backward()
    assert torch.equal(augmenter.policy.mean, before)
    assert torch.equal(augmenter(images).images, at_once(images).images)
    resumed = augmenter_of(teacher, plain_student, warmup_calls=2, schedule=schedule)
    resumed.load_state_dict(augmenter.state_dict())
    assert resumed(images).num_hard == 8


@pytest.mark.parametrize("settings", [{"warmup_calls": 1}, {"hard_fraction": 0.5}, {}])
def test_the_memory_format_is_that_of_the_input(settings: dict[str, Any]) -> None:
    networks = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)) for _ in range(2))
    images = torch.rand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    hard = augmenter_of(*networks, **settings)(images)
    assert hard.images.is_contiguous(memory_format=torch.channels_last)
    assert hard.images.data_ptr() != images.data_ptr()


def test_a_student_whose_batch_norm_has_no_running_statistics(teacher: nn.Module, images: Tensor) -> None:
    """It refuses a single image, so none is shown to it alone."""
    student = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.BatchNorm1d(16, track_running_stats=False), nn.ReLU())
    student.append(nn.Linear(16, 5))
    hard = augmenter_of(teacher, student, schedule=Alternating())(images)
    assert bool(hard.loss().isfinite())
    with pytest.raises(ValueError, match=r"single image, .* use larger batches, or larger fractions"):
        augmenter_of(teacher, student, hard_fraction=0.1, schedule=Alternating())(images)


def test_at_least_one_image_is_hard(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    assert augmenter_of(teacher, student, hard_fraction=0.01)(images).num_hard == 1
    assert augmenter_of(teacher, student, hard_fraction=0.01)(images[:0]).num_hard == 0
    conditional = Conditional(Affine().spec, channels=1)
    assert augmenter_of(teacher, student, policy=conditional, warmup_calls=1)(images).num_hard == 0


def test_a_mix_can_be_repeated_with_its_context(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    for schedule in SCHEDULES:
        transform = PatchMix(image_size=12, patch_size=4, mode="relaxed")
        augmenter = augmenter_of(teacher, plain_student, transform=transform, schedule=schedule)
        for _ in range(3):
            hard = augmenter(images)
            hard.loss().backward()
        repeated = transform(images, hard.u, hard.context)
        assert torch.allclose(repeated, hard.images, atol=1e-6)
        assert not torch.allclose(hard.reference_logits, hard.clean_teacher_logits)
        assert torch.equal(hard.teacher_consistent, hard.teacher_logits.argmax(1) == hard.reference_logits.argmax(1))
        assert augmenter.dropped_steps == 0


def test_the_gradient_of_a_mix_includes_that_of_its_reference(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    """The policy's gradient is that of the whole formula, of which the reference is a part."""
    transform = PatchMix(image_size=12, patch_size=4, mode="relaxed", temperature=1.0)
    for schedule in (Alternating(), Threshold(max_steps=1)):
        augmenter = augmenter_of(
            teacher,
            plain_student,
            transform=transform,
            policy=Gaussian(transform.spec),
            schedule=schedule,
            invariance=Penalty(3.0),
            exploration=Exploration(entropy_weight=0.0, min_variance=None),
        )
        generator = torch.Generator().manual_seed(0)
        order = derangement(8, generator)
        u = Gaussian(transform.spec).sample(images, generator).detach().requires_grad_()
        hard = (
            images
            + (images[order] - images) * transform.mask(u).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
        )
        area = transform.mask(u).mean((1, 2))[:, None]
        clean = teacher(images).softmax(1).detach()
        reference = ((1 - area) * clean + area * clean[order]).log()
        logits = teacher(hard)
        score = kl_divergence(teacher_logits=logits, student_logits=plain_student(hard), temperature=2.0)
        score = score - 3 * kl_divergence(teacher_logits=reference, student_logits=logits)
        (expected,) = torch.autograd.grad(score.mean(), u)
        augmenter(images)
        moment = augmenter.state_dict()["optimizer"]["state"][0]["exp_avg"]  # of the mean, after one step: 0.1 g
        assert torch.allclose(-moment / 0.1, expected.sum(0), atol=2e-5)


def test_behind_a_fixed_pipeline(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    fixed = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(12, padding=2), v2.ColorJitter(brightness=0.3)])
    augmenter = augmenter_of(teacher, student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(3):
        views = torch.stack([fixed(image) for image in images])
        hard = augmenter(views)
        assert torch.equal(hard.clean_images, views)
        optimizer.zero_grad()
        hard.loss().backward()
        optimizer.step()
    assert augmenter.dropped_steps == 0


def test_labels_that_are_missing_or_out_of_range(teacher: nn.Module, student: nn.Module, images: Tensor) -> None:
    augmenter = augmenter_of(teacher, student, objective=ConfidenceGap())
    state = augmenter.state_dict()["generator"]
    with pytest.raises(ValueError, match=r"ConfidenceGap .*labels.* call augmenter\(images, labels\)"):
        augmenter(images)
    with pytest.raises(ValueError, match=r"labels lie in \[0, 7\], and the teacher has 5 classes: expected 0 to 4"):
        augmenter(images, torch.arange(8))
    with pytest.raises(ValueError, match="expected integers"):
        augmenter(images, torch.rand(8, 5))
    assert torch.equal(augmenter.state_dict()["generator"], state)
    labels = torch.arange(8) % 5
    hard = augmenter(images, labels)
    probability = hard.teacher_logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    assert bool((hard.disagreement >= probability).all())
    assert hard.loss().requires_grad
