"""The method `hard`: the configured augmenter, its cost, and parts that cannot be combined."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.methods import Hard, UnsupportedPartsError
from hard_aug import Exploration, HardAugmenter, calibrate
from hard_aug.evaluation.network_evaluations import count_policy_updates
from hard_aug.objectives import Hinge, ReverseKL
from hard_aug.policies import Conditional
from hard_aug.schedules import Alternating
from hard_aug.transforms import Affine, VAELatent

LABELS = torch.arange(8) % 5


def test_the_augmenter_has_the_configured_parts(build: Any, teacher: nn.Module, student: nn.Module) -> None:
    chosen = ("transform@augmenter.transform=rotation", "policy@augmenter.policy=conditional", "temperature=3.0")
    chosen += ("objective@augmenter.objective=reverse_kl", "invariance@augmenter.invariance=hinge", "seed=5")
    settings = ("augmenter.min_uniform_fraction=0.3", "augmenter.batch_norm=split", "augmenter.learning_rate=0.5")
    method = build("hard", teacher, student, *chosen, *settings)
    assert isinstance(method, Hard)
    assert method.temperature == 3.0
    found = method.augmenter
    assert repr(found.transform) == repr(Affine(rotation=90.0))
    assert isinstance(found.policy, Conditional)
    assert isinstance(found.objective, ReverseKL)
    assert found.objective.temperature == 3.0
    assert isinstance(found.invariance, Hinge)
    assert found.schedule == Alternating(fraction=0.25, every=6, steps=1)
    assert found.exploration == Exploration(entropy_weight=0.08, min_variance=0.15, min_uniform_fraction=0.3)


def test_the_views_are_those_of_a_plain_augmenter(
    build: Any, teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    method = build("hard", teacher, plain_student, "seed=5")
    plain = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), seed=5)
    for _ in range(3):
        assert torch.equal(method.loss(images, LABELS), plain(images, LABELS).loss(temperature=2.0))
    assert count_policy_updates(method.augmenter) == 1
    assert method.scalars()["multiplier"] == 8.0
    assert method.planned_evaluations == pytest.approx(8 + 0.25 * 4 / 6)


CALIBRATED = ("policy@augmenter.policy=group_bandit", "augmenter.calibration=true", "seed=5")


def test_a_calibration_on_training_images_is_the_policy_s_start_and_counts(
    build: Any, teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    torch.manual_seed(7)  # of the training images
    method = build("hard", teacher, plain_student, *CALIBRATED)
    torch.manual_seed(7)
    expected = calibrate(teacher, torch.rand(20, 1, 12, 12), Affine(), seed=5)
    found = method.augmenter
    assert torch.equal(found.calibration.reach, expected.reach)
    assert torch.equal(found.policy.reach, expected.reach)
    assert method.fixed_evaluations == expected.evaluations > 0
    assert method.evaluations(0) == 0  # of an unused augmenter
    calls = 12
    for _ in range(calls):
        method.loss(images, LABELS)
    spent = method.evaluations(8 * calls)
    assert spent == pytest.approx(8 * calls * method.planned_evaluations + method.fixed_evaluations)
    assert method.planned_evaluations == pytest.approx(8 + 0.25 * 3 / 6)
    assert build("hard", teacher, plain_student, *CALIBRATED[:1]).fixed_evaluations == 0


def test_what_calls_on_a_gpu_have_found_is_raised_where_values_are_logged(
    build: Any, teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    method = build("hard", teacher, plain_student)
    method.loss(images, LABELS)
    method.augmenter._check.bad.fill_(True)
    with pytest.raises(ValueError, match="a batch since the last check held NaN"):
        method.scalars()
    assert method.scalars()["dropped_steps"] == 0


def test_an_unused_augmenter_has_no_cost(build: Any, teacher: nn.Module, student: nn.Module) -> None:
    method = build("hard", teacher, student)
    assert method.evaluations(0) == 0
    assert method.scalars() == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["schedule@augmenter.schedule=threshold", "objective@augmenter.objective=confidence_gap"], "no divergence"),
        (["augmenter=search", "schedule@augmenter.schedule=threshold"], "Threshold updates a policy's parameters"),
        (["augmenter=search", "invariance@augmenter.invariance=constraint"], "Constraint bounds the mean"),
        (["schedule@augmenter.schedule=joint", "objective@augmenter.objective=jensen_shannon"], "Joint takes"),
    ],
)
def test_unsupported_parts(
    build: Any, teacher: nn.Module, student: nn.Module, overrides: list[str], message: str
) -> None:
    with pytest.raises(UnsupportedPartsError, match=message):
        build("hard", teacher, student, *overrides)


def test_invalid_settings_are_no_unsupported_parts(build: Any, teacher: nn.Module, student: nn.Module) -> None:
    with pytest.raises(ValueError, match="learning_rate=-1") as raised:
        build("hard", teacher, student, "augmenter.learning_rate=-1")
    assert not isinstance(raised.value, UnsupportedPartsError)


@pytest.mark.slow
def test_edits_along_directions_of_the_training_images(build: Any) -> None:
    pytest.importorskip("diffusers")
    model, other = (nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 5)) for _ in range(2))
    chosen = ["transform@augmenter.transform=vae_directions", "augmenter.transform.directions=3"]
    for name in ("random", "hard"):
        method = build(name, model, other, *chosen, size=32)
        transform = method.augmenter.transform if isinstance(method, Hard) else method.transform
        assert isinstance(transform, VAELatent)
        assert [one.name for one in transform.spec] == ["direction_0", "direction_1", "direction_2"]
        assert float(method.loss(torch.rand(4, 1, 32, 32), LABELS[:4]).detach()) > 0
