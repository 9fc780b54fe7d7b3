"""`Alternating`: how often it updates the policy, in which direction, and at what cost in forwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter
from hard_aug.inner_loop.exploration import MaskedSum
from hard_aug.models.network import PROBES
from hard_aug.objectives import Penalty, kl_divergence
from hard_aug.policies import Gaussian
from hard_aug.schedules import Alternating, Schedule, Threshold
from hard_aug.transforms import Affine, Context, Parameter, Transform

TEMPERATURE, WEIGHT = 2.0, 1.5


class Counted(nn.Module):
    """Records the batch size of each forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return self.model(images)


class CountingPenalty(Penalty):
    """A penalty that counts its updates."""

    updates = 0

    def update(self, mean_divergence: Tensor, kept_rate: Tensor) -> None:
        self.updates += 1


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_settings_out_of_range(steps: Any) -> None:
    with pytest.raises(ValueError, match=f"steps={steps}: expected an integer >= 1"):
        Alternating(steps=steps)


def test_k_updates_in_every_nth_call(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    invariance = CountingPenalty()
    augmenter = HardAugmenter(
        teacher=teacher,
        student=plain_student,
        transform=Affine(),
        invariance=invariance,
        schedule=Alternating(steps=3, every=2),
    )
    counts = []
    for _ in range(5):
        before = augmenter.policy.mean.detach().clone()
        augmenter(images)
        counts.append(invariance.updates)
        moved = not torch.equal(before, augmenter.policy.mean)
        assert moved == (len(counts) % 2 == 1)
    assert counts == [3, 3, 6, 6, 9]


def observed(augmenter: HardAugmenter) -> list[list[Tensor]]:
    """Record the gradients of each policy update."""
    recorded: list[list[Tensor]] = []
    original = augmenter._optimizer.step

    def step(gradients: list[Tensor], divergence: MaskedSum, kept: MaskedSum, images: Tensor) -> None:
        recorded.append([g.clone() for g in gradients])
        original(gradients, divergence, kept, images)

    augmenter._optimizer.step = step  # type: ignore[method-assign]  # observes, changes nothing
    return recorded


def by_autograd(teacher: nn.Module, student: nn.Module, images: Tensor) -> list[Tensor]:
    """Differentiate the mean score with respect to the policy, through both networks in one graph."""
    transform = Affine()
    policy = Gaussian(transform.spec)
    hard = transform(images, policy.sample(images, torch.Generator().manual_seed(0)))
    logits = teacher(hard)
    disagreement = kl_divergence(teacher_logits=logits, student_logits=student(hard), temperature=TEMPERATURE)
    divergence = kl_divergence(teacher_logits=teacher(images).detach(), student_logits=logits)
    return list(torch.autograd.grad((disagreement - WEIGHT * divergence).mean(), list(policy.parameters())))


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("kind", [Alternating, Threshold])
def test_the_direction_is_that_of_autograd(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, kind: type[Schedule], fraction: float
) -> None:
    augmenter = HardAugmenter(
        teacher=teacher,
        student=plain_student,
        transform=Affine(),
        schedule=kind(fraction=fraction),
        invariance=Penalty(WEIGHT),
        exploration=Exploration(entropy_weight=0.0, min_variance=None),
    )
    recorded = observed(augmenter)
    augmenter(images)
    expected = by_autograd(teacher, plain_student, images[: round(8 * fraction)])
    for a, b in zip(recorded[0], expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max())), (a, b)


@pytest.mark.parametrize(
    ("schedule", "teacher_batches", "student_batches"),
    [
        # Teacher: clean and hard views, and the updates' views. Student: the updates' views, then the loss on both.
        (Alternating(), [8, 8, 8], [8, 16]),
        (Alternating(steps=2), [8, 8, 8, 8], [8, 8, 16]),
        (Alternating(fraction=0.25), [8, 2, 8], [2, 16]),
        # Threshold also runs the student on the clean images.
        (Threshold(max_steps=2, high=1e9), [8, 8, 8, 8], [8, 8, 8, 16]),
        (Threshold(fraction=0.25, max_steps=1, high=1e9), [8, 2, 8], [2, 2, 16]),
    ],
)
def test_forwards_of_the_networks(
    teacher: nn.Module,
    plain_student: nn.Module,
    images: Tensor,
    schedule: Any,
    teacher_batches: list[int],
    student_batches: list[int],
) -> None:
    networks = Counted(teacher), Counted(plain_student)
    augmenter = HardAugmenter(teacher=networks[0], student=networks[1], transform=Affine(), schedule=schedule)
    for call in range(2):
        hard = augmenter(images)
        hard.loss().backward()
        assert float(hard.disagreement.mean()) >= 0  # from the loss's own forward
        if call == 0:  # the first call also checks the student's logits on two images, and both networks' gradients
            assert networks[1].batches.pop(0) == 2
            for network in networks:
                network.batches.remove(min(PROBES, schedule.rows(8)))
        assert [sorted(network.batches) for network in networks] == [sorted(teacher_batches), sorted(student_batches)]
        for network in networks:
            network.batches.clear()


def test_a_call_that_is_not_due_only_draws(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    networks = Counted(teacher), Counted(plain_student)
    augmenter = HardAugmenter(
        teacher=networks[0], student=networks[1], transform=Affine(), schedule=Alternating(every=2)
    )
    augmenter(images)
    for network in networks:
        network.batches.clear()
    augmenter(images)
    assert [network.batches for network in networks] == [[8, 8], []]


class Labelled(Transform):
    """Adds a value that depends on the label."""

    spec = (Parameter("strength", -0.1, 0.1, 0.0, "intensity"),)

    def __init__(self) -> None:
        self.seen: list[tuple[int, list[int]]] = []

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        if context.labels is None:
            raise ValueError("Labelled requires labels")
        self.seen.append((len(images), context.labels.tolist()))
        strength = self.decode(u)["strength"] * context.labels
        return images + strength[:, None, None, None]


@pytest.mark.parametrize("schedule", [Alternating(fraction=0.5), Threshold(fraction=0.5, max_steps=1)])
def test_a_fraction_of_the_images_comes_with_its_labels(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any
) -> None:
    transform = Labelled()
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=transform, schedule=schedule)
    augmenter(images, labels=torch.arange(8))
    assert sorted(transform.seen) == [(4, list(range(4))), (8, list(range(8)))]
    with pytest.raises(ValueError, match="requires labels"):
        augmenter(images)
    with pytest.raises(ValueError, match=r"labels.*8"):
        augmenter(images, labels=torch.arange(5))
