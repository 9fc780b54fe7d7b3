"""The ascent's direction against plain autograd: alternating, joint, accumulated, scaled."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.distillation import distillation_loss
from hard_aug.objectives import Penalty, kl_divergence
from hard_aug.policies import Gaussian
from hard_aug.schedules import Alternating, Joint, Schedule
from hard_aug.transforms import Affine

TEMPERATURE, WEIGHT = 2.0, 1.5


def augmenter_of(teacher: nn.Module, student: nn.Module, schedule: Schedule, **kwargs: Any) -> HardAugmenter:
    return HardAugmenter(
        teacher=teacher,
        student=student,
        transform=Affine(),
        schedule=schedule,
        invariance=Penalty(WEIGHT),
        spread_weight=0.0,
        spread_floor=None,
        **kwargs,
    )


def spy(augmenter: HardAugmenter) -> list[list[Tensor]]:
    """Note the gradients of each ascent, which goes on as it is."""
    noted: list[list[Tensor]] = []
    original = augmenter._ascent.apply

    def apply(gradients: list[Tensor], *others: Any) -> None:
        noted.append([g.clone() for g in gradients])
        original(gradients, *others)

    augmenter._ascent.apply = apply  # type: ignore[method-assign]  # watches, changes nothing
    return noted


def by_autograd(teacher: nn.Module, student: nn.Module, images: Tensor, share: int, seed: int = 0) -> list[Tensor]:
    """The gradient of the mean over the share, both players differentiated in one graph."""
    transform = Affine()
    policy = Gaussian(transform.spec)
    u = policy.propose(images, torch.Generator().manual_seed(seed))[:share]
    hard = transform(images[:share], u)
    answer = teacher(hard)
    disagreement = kl_divergence(teacher_logits=answer, student_logits=student(hard), temperature=TEMPERATURE)
    change = kl_divergence(teacher_logits=teacher(images[:share]).detach(), student_logits=answer)
    return list(torch.autograd.grad((disagreement - WEIGHT * change).mean(), list(policy.parameters())))


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 2e-4) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max())), (a, b)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("kind", [Alternating, Joint])
def test_direction_is_that_of_autograd(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, kind: type[Schedule], fraction: float
) -> None:
    augmenter = augmenter_of(teacher, plain_student, kind(fraction=fraction))
    noted = spy(augmenter)
    hard = augmenter(images)
    hard.loss().backward()
    augmenter.step()
    share = round(8 * fraction)
    batch = images if kind is Joint else images[:share]  # Alternating draws for its share alone
    assert len(noted) == 1
    assert_close(noted[0], by_autograd(teacher, plain_student, batch, share))


@pytest.mark.parametrize("clean_weight", [0.0, 0.3, 0.9])
def test_weight_of_the_clean_view_does_not_matter(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, clean_weight: float
) -> None:
    augmenter = augmenter_of(teacher, plain_student, Joint())
    noted = spy(augmenter)
    augmenter(images).loss(clean_weight=clean_weight).backward()
    augmenter.step()
    assert_close(noted[0], by_autograd(teacher, plain_student, images, 8))


@pytest.mark.parametrize("factor", [2.0**14, 1e-3])
def test_scaled_loss_gives_the_same_direction(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, factor: float
) -> None:
    augmenter = augmenter_of(teacher, plain_student, Joint())
    noted = spy(augmenter)
    (augmenter(images).loss() * factor).backward()
    augmenter.step()
    assert_close(noted[0], by_autograd(teacher, plain_student, images, 8))


def test_grad_scaler_with_a_loss_of_ones_own(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = augmenter_of(teacher, plain_student, Joint())
    noted = spy(augmenter)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    hard = augmenter(images)
    loss = distillation_loss(
        student_logits=plain_student(hard.images), teacher_logits=hard.teacher_logits, temperature=TEMPERATURE
    )
    scaler.scale(loss).backward()
    augmenter.step(grad_scaler=scaler)
    assert_close(noted[0], by_autograd(teacher, plain_student, images, 8))


def test_a_loss_that_is_only_looked_at_changes_nothing(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    augmenter = augmenter_of(teacher, plain_student, Joint())
    noted = spy(augmenter)
    hard = augmenter(images)
    hard.loss(clean_weight=0.9)
    hard.loss().backward()
    with torch.no_grad():
        hard.loss(clean_weight=0.0)
    hard.loss(clean_weight=1.0).backward()
    augmenter.step()
    assert_close(noted[0], by_autograd(teacher, plain_student, images, 8))


def test_losses_of_unequal_weights_are_each_taken_for_what_they_are(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    augmenter = augmenter_of(teacher, plain_student, Joint())
    noted = spy(augmenter)
    hard = augmenter(images)
    (3 * hard.loss(clean_weight=0.2) + hard.loss(clean_weight=0.7)).backward()
    augmenter.step()
    assert_close(noted[0], by_autograd(teacher, plain_student, images, 8))


@pytest.mark.parametrize("own", [False, True])
def test_the_students_own_step_in_between_does_not_matter(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, own: bool
) -> None:
    expected = by_autograd(teacher, plain_student, images, 8)
    augmenter = augmenter_of(teacher, plain_student, Joint())
    noted = spy(augmenter)
    optimizer = torch.optim.SGD(plain_student.parameters(), lr=0.5)
    hard = augmenter(images)
    loss = hard.loss()
    if own:  # the mean over both views, as a user would write it
        logits = plain_student(torch.cat((images, hard.images)))
        answers = torch.cat((hard.clean_teacher_logits, hard.teacher_logits))
        loss = distillation_loss(student_logits=logits, teacher_logits=answers, temperature=TEMPERATURE)
    loss.backward()
    optimizer.step()
    augmenter.state_dict()  # reading it is no step either
    augmenter.step(hard_weight=0.5 if own else 1.0)
    assert_close(noted[0], expected)


def test_two_calls_may_share_a_backward(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    found = []
    for together in (False, True):
        augmenter = augmenter_of(teacher, plain_student, Joint())
        noted = spy(augmenter)
        losses = []
        for part in images.split(4):
            losses.append(augmenter(part).loss())
            if not together:
                losses[-1].backward()
        if together:
            torch.stack(losses).sum().backward()
        augmenter.step()
        found.append(noted[0])
    assert_close(*found)


def test_a_backward_after_the_step_is_left_out(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    augmenter = augmenter_of(teacher, plain_student, Joint())
    noted = spy(augmenter)
    late = augmenter(images)
    augmenter(images).loss().backward()
    augmenter.step()
    assert "1 hard batch(es) had no backward" in caplog.text
    late.loss().backward()
    augmenter.step()
    assert len(noted) == 1


def test_accumulated_micro_batches_are_one_batch(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = augmenter_of(teacher, plain_student, Joint())
    noted = spy(augmenter)
    generator = torch.Generator().manual_seed(0)
    expected: list[Tensor] | None = None
    transform, policy = Affine(), Gaussian(Affine().spec)
    for part in images.split([2, 6]):
        (augmenter(part).loss() * len(part) / 8).backward()
        u = policy.propose(part, generator)
        hard = transform(part, u)
        answer = teacher(hard)
        disagreement = kl_divergence(teacher_logits=answer, student_logits=plain_student(hard), temperature=TEMPERATURE)
        change = kl_divergence(teacher_logits=teacher(part).detach(), student_logits=answer)
        found = torch.autograd.grad((disagreement - WEIGHT * change).sum() / 8, list(policy.parameters()))
        expected = list(found) if expected is None else [a + b for a, b in zip(expected, found, strict=True)]
    augmenter.step()
    assert expected is not None
    assert len(noted) == 1
    assert_close(noted[0], expected)


def test_without_the_teachers_gradient_only_the_student_counts(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    augmenter = augmenter_of(teacher, plain_student, Joint(teacher_gradient=False))
    noted = spy(augmenter)
    augmenter(images).loss().backward()
    augmenter.step()
    transform, policy = Affine(), Gaussian(Affine().spec)
    hard = transform(images, policy.propose(images, torch.Generator().manual_seed(0)))
    answer = teacher(hard).detach()
    score = kl_divergence(teacher_logits=answer, student_logits=plain_student(hard), temperature=TEMPERATURE).mean()
    assert_close(noted[0], list(torch.autograd.grad(score, list(policy.parameters()))))


def test_a_batch_without_backward_is_left_out(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    augmenter = augmenter_of(teacher, plain_student, Joint())
    before = copy.deepcopy(augmenter.policy.state_dict())
    augmenter.step()
    augmenter(images)
    augmenter.step()
    assert "no backward" in caplog.text
    for key, value in augmenter.policy.state_dict().items():
        assert torch.equal(value, before[key])


def test_another_temperature_under_joint_is_refused(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    hard = augmenter_of(teacher, plain_student, Joint())(images)
    with pytest.raises(ValueError, match=r"KL\(temperature=3.0\)"):
        hard.loss(temperature=3.0)


def test_a_step_that_is_not_finite_is_dropped_and_counted(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    augmenter = augmenter_of(teacher, plain_student, Joint())
    augmenter(images).loss().backward()
    augmenter.step()
    before = copy.deepcopy(augmenter._ascent.state_dict())
    hard = augmenter(images)
    (hard.loss() * float("inf")).backward()
    augmenter.step()
    assert augmenter.dropped_steps == 1
    after = augmenter._ascent.state_dict()
    assert all(torch.equal(value, after["policy"][key]) for key, value in before["policy"].items())
    for index, moments in before["optimizer"]["state"].items():
        assert all(torch.equal(m, after["optimizer"]["state"][index][k]) for k, m in moments.items())
    augmenter(images).loss().backward()
    augmenter.step()
    assert augmenter.dropped_steps == 1
    assert any(not torch.equal(v, augmenter.policy.state_dict()[k]) for k, v in before["policy"].items())


def test_a_term_on_the_clean_logits_beside_the_loss_moves_no_policy(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    labels, means = torch.arange(8) % 5, []
    for weight in (0.0, 3.0):
        augmenter = augmenter_of(teacher, plain_student, Joint())
        hard = augmenter(images)
        loss, clean_logits, hard_logits = hard.loss_and_logits()
        assert torch.equal(loss, hard.loss())
        assert torch.allclose(clean_logits, plain_student(images), atol=1e-6)
        assert torch.allclose(hard_logits, plain_student(hard.images), atol=1e-6)
        (0.5 * loss + weight * F.cross_entropy(clean_logits, labels)).backward()
        augmenter.step()
        means.append(augmenter.policy.mean.detach().clone())
    assert bool(means[0].any())
    assert torch.equal(means[0], means[1])
