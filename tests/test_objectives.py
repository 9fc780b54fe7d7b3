"""Objectives, schedules and policies, each against a plainer form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hard_aug import HardAugmenter
from hard_aug.distillation import distillation_loss
from hard_aug.objectives import KL, Constraint, Penalty, ReverseKL, kl_divergence, teacher_change
from hard_aug.schedules import Alternating, Joint
from hard_aug.spread import LARGEST_SHARE, Spread, own_sum
from hard_aug.transforms import Affine


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_is_that_of_torch(temperature: float) -> None:
    teacher, student = torch.randn(2, 6, 5, dtype=torch.float64)
    expected = temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="none"
    ).sum(1)
    found = KL(temperature)(teacher_logits=teacher, student_logits=student)
    assert found.shape == (6,)
    assert torch.allclose(found, expected)
    assert torch.allclose(
        distillation_loss(student_logits=student, teacher_logits=teacher, temperature=temperature), expected.mean()
    )


def test_kl_has_gradients_in_both_players() -> None:
    logits = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(
        lambda t, s: kl_divergence(teacher_logits=t, student_logits=s, temperature=2.0), logits
    )


def test_kl_is_zero_at_agreement_and_finite_at_large_logits() -> None:
    logits = torch.randn(4, 5)
    agreed = kl_divergence(teacher_logits=logits, student_logits=logits + 3)
    assert torch.allclose(agreed, torch.zeros(4), atol=1e-6)
    large = 1e4 * torch.eye(5)
    assert bool(kl_divergence(teacher_logits=large, student_logits=-large).isfinite().all())
    half = logits.half()
    assert kl_divergence(teacher_logits=half, student_logits=half).dtype == torch.float32
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(4, 4\)"):
        kl_divergence(teacher_logits=logits, student_logits=logits[:, :4])


def test_teacher_change_is_at_temperature_one() -> None:
    reference, hard = torch.randn(2, 6, 5)
    expected = F.kl_div(hard.log_softmax(1), reference.log_softmax(1), log_target=True, reduction="none").sum(1)
    assert torch.allclose(teacher_change(reference_logits=reference, hard_logits=hard), expected, atol=1e-6)


def test_constraint_follows_the_mean_change() -> None:
    constraint = Constraint(0.1, rate=0.5, decay=0.5, initial=1.0, maximum=3.0)
    constraint.update(torch.tensor(0.3))  # the moving mean goes to 0.2
    assert float(constraint.multiplier) == pytest.approx(1.5)
    for _ in range(20):
        constraint.update(torch.tensor(5.0))
    assert float(constraint.multiplier) == 3.0
    for _ in range(60):
        constraint.update(torch.tensor(0.0))
    assert float(constraint.multiplier) == 0.0
    penalty = Penalty(2.0)
    penalty.update(torch.tensor(9.0))
    assert float(penalty.multiplier) == 2.0


def test_uniform_draws_below_the_floor() -> None:
    spread = Spread(weight=0.1, floor=0.5)
    u = torch.full((40_000, 2), 9.0, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    for room in (0.5, 0.8):
        spread.update(torch.full((2,), room))
        assert spread.mixed(u, generator) == (u, None)
    spread.update(torch.full((2,), 0.4))
    assert float(spread.uniform_share) == pytest.approx(1 - 0.8**4)
    mixed, own = spread.mixed(u, generator)
    assert own is not None
    assert torch.equal((mixed == 9).all(1), own)
    assert float(own.float().mean()) == pytest.approx(0.8**4, abs=0.01)
    assert float(mixed[~own].detach().std()) == pytest.approx(1, abs=0.05)
    (gradient,) = torch.autograd.grad(mixed.sum(), u)
    assert torch.allclose(gradient[own], torch.tensor(0.8**-4))
    assert float(gradient[~own].abs().max()) == 0
    assert float(gradient.mean()) == pytest.approx(1, abs=0.01)  # as if all rows were the policy's own
    spread.update(torch.zeros(2))  # a point
    assert float(spread.uniform_share) == pytest.approx(LARGEST_SHARE)
    spread.update(torch.full((2,), torch.nan))
    assert float(spread.uniform_share) == 0


def test_wide_parameters_among_dropped_ones_are_no_collapse() -> None:
    spread = Spread(weight=0.1, floor=0.15)
    spread.update(torch.tensor([0.6, 0.4] + [1e-4] * 10))
    assert float(spread.uniform_share) == 0
    spread.update(torch.full((12,), 0.1))
    assert float(spread.uniform_share) == pytest.approx(1 - (2 / 3) ** 4)


def test_the_mean_over_own_rows() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    assert tuple(map(float, own_sum(values, None))) == (9, 3)
    assert tuple(map(float, own_sum(values, torch.tensor([True, False, True])))) == (7, 2)
    assert tuple(map(float, own_sum(values, torch.zeros(3, dtype=torch.bool)))) == (0, 0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KL(0.0), "temperature=0"),
        (lambda: Penalty(-1.0), "weight=-1"),
        (lambda: Constraint(0.0), "epsilon=0"),
        (lambda: Constraint(0.1, decay=1.0), "decay"),
        (lambda: Spread(weight=-1.0, floor=None), "spread_weight=-1"),
        (lambda: Spread(weight=1.0, floor=1.0), "spread_floor=1.0"),
        (lambda: Alternating(steps=0), "steps=0"),
        (lambda: Joint(every=0), "every=0"),
        (lambda: Joint(fraction=0.0), "fraction=0"),
        (lambda: Joint(fraction=1.5), "fraction=1.5"),
    ],
)
def test_settings_out_of_range_are_refused(make: type, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_schedules_say_when_and_on_how_many() -> None:
    schedule = Joint(every=3, fraction=0.25)
    assert [schedule.due(call) for call in range(5)] == [True, False, False, True, False]
    assert [schedule.share(batch) for batch in (128, 2, 1, 0)] == [32, 1, 1, 0]


def test_joint_refuses_what_the_outer_loss_is_not(
    teacher: torch.nn.Module, student: torch.nn.Module, images: Tensor
) -> None:
    parts = {"teacher": teacher, "student": student, "transform": Affine(), "objective": ReverseKL()}
    with pytest.raises(ValueError, match=r"ReverseKL.*Alternating"):
        HardAugmenter(**parts, schedule=Joint())
    batch = HardAugmenter(**parts, schedule=Alternating())(images)
    assert batch.disagreement.shape == (8,)
