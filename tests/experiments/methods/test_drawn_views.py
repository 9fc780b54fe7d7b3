"""Random views of the augmenter's transform, of the task's own, and by torchvision's policies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from torch import Tensor, nn
from torchvision.transforms import v2

from experiments.methods.drawn_views import build_random, calibrated, finished_transform, seeded_from
from experiments.tasks import random_views
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from experiments.training.setup import Setup
from hard_aug import calibrate
from hard_aug.calibration.first_calls import IMAGES
from hard_aug.data import ImageSet, Splits
from hard_aug.policies import GroupBandit, Uniform
from hard_aug.transforms import Affine
from tests.helpers.method_parts import composed

LABELS = torch.arange(8) % 5


def setup_of(part: ImageSet, *, untrained: bool = False) -> Setup:
    splits = Splits(part, part, part, ("a", "b", "c", "d", "e"))
    return Setup(composed(), splits, Progress(quiet=True), Stop(), untrained=untrained)


def test_random_views_use_the_augmenter_s_transform_and_the_scale(
    build: Any, teacher: nn.Module, images: Tensor
) -> None:
    chosen = ("transform@augmenter.transform=rotation", "method.scale=0.25", "seed=4")
    method = build("random", teacher, teacher, *chosen)
    assert repr(method.transform) == repr(Affine(rotation=90.0))
    expected = random_views(Affine(rotation=90.0), images, torch.Generator().manual_seed(4), scale=0.25)
    assert torch.equal(method.second_view(images, LABELS), expected)


def test_the_oracle_uses_the_task_s_own_transform(build: Any, teacher: nn.Module) -> None:
    method = build("oracle", teacher, teacher, "test_shift=2")
    assert repr(method.transform) == repr(Affine(translation=2 / 12, rotation=None, scale=None, shear=None))
    assert repr(method.policy) == repr(Uniform(method.transform.spec))
    assert method.fixed_evaluations == 0
    with pytest.raises(ValueError, match="method=oracle: this task has no known invariance"):
        build("oracle", teacher, teacher, "task=plain")


def test_few_groups_change_an_image_and_all_equally_often(build: Any, teacher: nn.Module, images: Tensor) -> None:
    """As in RandAugment; nothing is learned."""
    chosen = ("augmenter=menu", "method.groups=[1,2]", "method.scale=0.5", "seed=4")
    method = build("random_groups", teacher, teacher, *chosen)
    policy = method.policy
    assert isinstance(policy, GroupBandit)
    assert (policy.groups, policy.power, policy.floor) == ((1, 2), 0.0, 1.0)
    assert method.fixed_evaluations == 0
    u = policy.sample(torch.zeros(3000, 1, 4, 4), torch.Generator().manual_seed(0))
    used = policy.used_groups(u).float()
    assert used.sum(1).unique().tolist() == [1, 2]
    assert torch.allclose(used.mean(0), torch.full((14,), 1.5 / 14), atol=0.025)
    assert float(method.transform.decode(u)["rotation"].abs().max()) == pytest.approx(90, abs=2)
    weights = policy.weights.clone()
    expected = random_views(method.transform, images, torch.Generator().manual_seed(4), policy=policy)
    assert torch.equal(method.second_view(images, LABELS), expected)
    method.loss(images, LABELS)
    assert torch.equal(policy.weights, weights)
    assert build("random_groups", teacher, teacher).policy.groups == (1, 3)


TURN = ("transform@augmenter.transform=rotation", "augmenter.transform.rotation=180.0")


def test_calibrated_ranges_are_the_joint_ones_unless_few_groups_are_used(build: Any, teacher: nn.Module) -> None:
    torch.manual_seed(7)  # of the training images
    method = build("calibrated", teacher, teacher, "seed=2", "method.scale=0.5")
    torch.manual_seed(7)
    images = torch.rand(20, 1, 12, 12)
    expected = calibrate(teacher, images, Affine(), seed=2)
    assert 0 < float(expected.reach.min()) < float(expected.reach.max())
    assert torch.equal(method.calibration.reach, expected.reach)
    assert method.transform.spec == expected.narrowed().spec
    assert isinstance(method.policy, Uniform)
    assert method.policy.scale == 0.5
    few = build("calibrated", teacher, teacher, "seed=2", "method.scale=0.5", "method.groups=[1,1]")
    assert repr(few.transform) == repr(Affine())
    assert isinstance(few.policy, GroupBandit)
    assert torch.equal(few.policy.reach, 0.5 * few.calibration.reach)


def test_the_calibration_s_cost_does_not_depend_on_the_number_of_steps(build: Any, teacher: nn.Module) -> None:
    method = build("calibrated", teacher, teacher, *TURN)
    assert method.fixed_evaluations == method.calibration.evaluations > 0
    assert method.evaluations(0) == method.fixed_evaluations
    assert method.evaluations(10) == 10 * method.planned_evaluations + method.fixed_evaluations


def test_only_the_first_images_are_calibrated_on(teacher: nn.Module) -> None:
    """Of many training images a few are loaded, and a seeded choice of them is used."""
    part = ImageSet(torch.rand(5 * IMAGES, 1, 12, 12), torch.arange(5 * IMAGES) % 5)
    setup = setup_of(part)
    found = calibrated(teacher, Affine(), setup, seed=3)
    assert found is not None
    assert found.images == IMAGES
    first = calibrate(teacher, part.images[: 4 * IMAGES], Affine(), max_images=IMAGES, seed=3)
    assert torch.equal(found.reach, first.reach)


def test_the_untrained_teacher_of_a_check_is_not_calibrated(teacher: nn.Module, images: Tensor) -> None:
    setup = setup_of(ImageSet(images, LABELS), untrained=True)
    assert calibrated(teacher, Affine(), setup, seed=0) is None
    settings: dict[str, Any] = {"scale": 0.5, "calibration": True, "temperature": 2.0, "seed": 0, "setup": setup}
    method = build_random(teacher, teacher, transform=Affine(), **settings)
    assert repr(method.transform) == repr(Affine())
    assert method.fixed_evaluations == 0
    few = build_random(teacher, teacher, transform=Affine(), groups=(1, 1), **settings)
    assert isinstance(few.policy, GroupBandit)
    assert few.policy.reach.unique().tolist() == [0.5]


def test_a_resumed_run_calibrates_again_and_draws_the_same(build: Any, teacher: nn.Module, images: Tensor) -> None:
    found = []
    for resumed in (False, True):
        torch.manual_seed(7)
        method = build("calibrated", teacher, teacher, "seed=2", "method.groups=[1,3]")
        method.second_view(images, LABELS)
        if resumed:
            state = method.state_dict()
            torch.manual_seed(7)
            method = build("calibrated", teacher, teacher, "seed=2", "method.groups=[1,3]")
            method.load_state_dict(state)
        found.append(method.second_view(images, LABELS))
    assert torch.equal(*found)


def test_a_transform_is_finished_with_the_training_images() -> None:
    setup: Any = SimpleNamespace(splits=SimpleNamespace(train="the training images"))
    seen: list[Any] = []
    transform = Affine()
    assert finished_transform(transform, setup) is transform

    def make(images: Any) -> Affine:
        seen.append(images)
        return transform

    assert finished_transform(make, setup) is transform
    assert seen == ["the training images"]


def test_seeding_restores_the_global_generator() -> None:
    before = torch.get_rng_state()
    with seeded_from(torch.Generator().manual_seed(1)):
        first = torch.rand(3)
    assert torch.equal(before, torch.get_rng_state())
    with seeded_from(torch.Generator().manual_seed(1)):
        assert torch.equal(first, torch.rand(3))


@pytest.mark.parametrize("name", ["randaugment", "trivialaugment", "augmix"])
def test_each_image_is_augmented_separately(build: Any, name: str, teacher: nn.Module, images: Tensor) -> None:
    same = images[:1].repeat(16, 1, 1, 1)
    views = build(name, teacher, teacher).second_view(same, LABELS.repeat(2))
    assert len({tuple(view.flatten().tolist()) for view in views}) > 4


def test_8_bit_images_are_reproduced_exactly_by_the_identity(build: Any, teacher: nn.Module) -> None:
    exact = torch.arange(144).reshape(1, 1, 12, 12) / 255
    method = build("randaugment", teacher, teacher, "method.transform.num_ops=1", "method.transform.magnitude=0")
    found = torch.cat([method.second_view(exact, LABELS[:1]) for _ in range(40)])
    assert any(torch.equal(view, exact[0]) for view in found)  # the identity is among the operations


def test_the_configured_settings(build: Any, teacher: nn.Module) -> None:
    found = build("augmix", teacher, teacher, "method.transform.severity=5").transform
    assert isinstance(found, v2.AugMix)
    assert (found.severity, found.mixture_width, found.all_ops) == (5, 3, False)
    flipped = "method.transform._target_=torchvision.transforms.v2.RandomHorizontalFlip"
    assert isinstance(build("trivialaugment", teacher, teacher, flipped).transform, v2.RandomHorizontalFlip)


def test_settings_outside_their_range_raise(build: Any, teacher: nn.Module) -> None:
    for magnitude in (31, -1):
        with pytest.raises(ValueError, match=f"magnitude={magnitude}: expected an integer from 0 to 30"):
            build("randaugment", teacher, teacher, f"method.transform.magnitude={magnitude}")
    with pytest.raises(InstantiationException, match="severity must be between"):
        build("augmix", teacher, teacher, "method.transform.severity=11")
