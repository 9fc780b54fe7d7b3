"""The calibration of an augmenter's start: on which images, for which policies, and what calls do until then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter, calibrate, menu
from hard_aug.calibration import first_calls
from hard_aug.calibration.first_calls import IMAGES
from hard_aug.losses import distillation_loss
from hard_aug.policies import Conditional, Gaussian, Generator, GroupBandit, Search, Uniform
from hard_aug.policies.base import std_of_reach
from hard_aug.schedules import Alternating
from hard_aug.transforms import Color, Filter, Transform
from tests.helpers.calibration_parts import (
    BATCH,
    ByLabel,
    Levels,
    batches,
    equal,
    grey,
    made,
    student,
    trained_network,
    transform,
)


def test_calls_are_plain_distillation_until_there_are_enough_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the call that completes them, all images get hard views."""
    assert IMAGES == 128
    monkeypatch.setattr(first_calls, "IMAGES", 32)
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    augmenter = HardAugmenter(teacher=trained_network(), student=own, seed=3)
    assert augmenter.transform.spec == menu().spec
    assert isinstance(augmenter.policy, GroupBandit)
    parts = torch.split(torch.cat(batches()), [8, 8, 16, 6 * BATCH - 32])
    for images in parts[:2]:
        hard = augmenter(images)
        assert hard.num_hard == 0
        assert torch.equal(hard.images, images)
        clean = distillation_loss(student_logits=own(images), teacher_logits=hard.clean_teacher_logits)
        assert float(hard.loss(temperature=2.0).detach()) == pytest.approx(float(clean.detach()), rel=1e-5)
        assert augmenter.calibration is None
        assert torch.equal(augmenter.policy.reach, torch.ones(66, 2))
    hard = augmenter(parts[2])
    assert hard.num_hard == 16
    assert not torch.equal(hard.images, parts[2])
    found = augmenter.calibration
    assert found is not None
    assert found.images == 32
    assert torch.equal(augmenter.policy.reach, found.reach)
    assert 0 < float(found.reach.min()) < 1


@pytest.mark.parametrize("sizes", [[BATCH] * 4, [IMAGES], [IMAGES + 9], [IMAGES - 40, 0, 50]])
def test_it_is_what_calibrate_returns_for_the_first_images(sizes: list[int]) -> None:
    augmenter, images = made(seed=5), torch.cat(batches(8))
    for part in torch.split(images[: sum(sizes)], sizes):
        hard = augmenter(part)
    expected = calibrate(trained_network(), images[:IMAGES], transform(), seed=5)
    found = augmenter.calibration
    assert found is not None
    assert torch.equal(found.reach, expected.reach)
    assert torch.allclose(found.kept, expected.kept)
    assert (found.images, found.evaluations) == (expected.images, expected.evaluations)
    assert found.joint_scale == expected.joint_scale
    assert hard.num_hard == sizes[-1]


def test_draws_stay_within_the_calibrated_ranges() -> None:
    augmenter = made(policy=GroupBandit(transform().spec, groups=(1, 1)))
    for images in batches():
        hard = augmenter(images)
    assert augmenter.calibration is not None
    values = augmenter.transform.decode(hard.u)
    for name, (low, high) in augmenter.calibration.ranges().items():
        assert low - 1e-4 * abs(low) <= float(values[name].min()) <= float(values[name].max()) <= high * 1.0001, name


def test_switched_off() -> None:
    augmenter, images = made(calibration=False), batches()[0]
    assert augmenter(images).num_hard == BATCH
    assert augmenter.calibration is None
    plain = HardAugmenter(teacher=trained_network(), student=student(), transform=transform())
    assert plain(images).num_hard == BATCH
    assert "calibration=False" in repr(plain)
    everything = HardAugmenter(teacher=trained_network(), student=student(), calibration=False)
    assert everything(images).num_hard == BATCH
    assert "calibration=True" in repr(made())


@pytest.mark.parametrize("given", [None, menu(elastic=None, padding_mode="border")])
def test_menus_are_calibrated_unless_the_policy_has_no_start(given: Transform | None) -> None:
    networks: dict[str, Any] = {"teacher": trained_network(), "student": student()}
    spec, images = (menu() if given is None else given).spec, torch.rand(4, 1, 8, 8)
    for policy, calibrates in ((None, True), (Gaussian(spec), True), (Uniform(spec), False)):
        augmenter = HardAugmenter(**networks, transform=given, policy=policy)
        assert f"calibration={calibrates}" in repr(augmenter)
        assert augmenter(images).num_hard == (0 if calibrates else 4)
        assert isinstance(augmenter.policy, GroupBandit if policy is None else type(policy))


def test_a_result_is_used_at_once() -> None:
    parts = batches(1)
    found = calibrate(trained_network(), parts[0], transform())
    augmenter = made(calibration=found)
    assert augmenter.calibration is found
    assert torch.equal(augmenter.policy.reach, found.reach)
    assert augmenter(parts[0]).num_hard == BATCH
    other = made(calibration=found, seed=1)
    other.load_state_dict(augmenter.state_dict())
    assert torch.equal(other(parts[0]).images, augmenter(parts[0]).images)


def test_results_that_do_not_fit() -> None:
    found = calibrate(Levels(0.5), grey(8), Color(saturation=None, hue=None))
    with pytest.raises(ValueError, match="it is of another transform; give HardAugmenter the transform that was calib"):
        made(calibration=found)
    with pytest.raises(ValueError, match="it is of another transform"):
        HardAugmenter(teacher=trained_network(), student=student(), calibration=found)
    for wrong in (1, "yes"):
        with pytest.raises(TypeError, match=r"expected True, False or the result of calibrate\(\)"):
            made(calibration=wrong)
    with pytest.raises(ValueError, match="Uniform has no start that calibrated ranges could set; use calibration"):
        made(policy=Uniform(transform().spec))


@pytest.mark.parametrize("kind", [Gaussian, Generator, Conditional])
def test_a_policy_that_is_learned_by_gradients_starts_as_wide_as_the_ranges(kind: Any) -> None:
    settings = {"channels": 1} if kind is Conditional else {}
    policy = kind(transform().spec, **settings)
    augmenter = made(policy=policy, schedule=Alternating(every=9))
    for images in batches(3):
        augmenter(images)
    assert torch.allclose(policy.log_std, torch.full((4,), 0.3).log())
    before = policy.log_std.detach().clone()
    augmenter(batches(4)[3])
    assert augmenter.calibration is not None
    assert torch.allclose(policy.log_std, std_of_reach(augmenter.calibration.reach).log())
    assert not torch.equal(policy.log_std, before)


def test_the_proposal_of_a_search_starts_from_the_ranges() -> None:
    bandit = GroupBandit(transform().spec)
    augmenter = made(policy=Search(transform().spec, proposal=bandit, candidates=2))
    for images in batches(4):
        augmenter(images)
    assert augmenter.calibration is not None
    assert torch.equal(bandit.reach, augmenter.calibration.reach)


class NoGradient(nn.Module):
    """A teacher without a gradient, such as one that runs elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.network = trained_network().eval()

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.network(images)  # type: ignore[no-any-return]  # a tensor


def test_calls_need_no_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **settings: Any) -> Any:
        raise AssertionError("a backward pass")

    augmenter, parts = made(NoGradient()), batches()
    with monkeypatch.context() as patched:
        patched.setattr(torch.autograd, "grad", fails)
        patched.setattr(torch.autograd, "backward", fails)
        patched.setattr(Tensor, "backward", fails)
        for images in parts:
            hard = augmenter(images)
    assert hard.num_hard == BATCH
    assert augmenter.policy.weights.unique().numel() > 1  # it has learned
    hard.loss().backward()  # of the student alone


def test_a_warm_up_and_a_fraction() -> None:
    augmenter, parts = made(warmup_calls=5, hard_fraction=0.5), batches()
    assert [augmenter(images).num_hard for images in parts] == [0, 0, 0, 0, 0, BATCH // 2]
    assert augmenter.calibration is not None
    early = made(warmup_calls=1, hard_fraction=0.5)
    assert [early(images).num_hard for images in parts] == [0, 0, 0, *[BATCH // 2] * 3]


def test_labels_go_with_their_images() -> None:
    images = torch.cat((grey(IMAGES // 2, level=0.3), grey(IMAGES // 2, level=0.7)))
    labels = torch.cat((torch.zeros(IMAGES // 2), torch.ones(IMAGES // 2))).long()
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    augmenter = HardAugmenter(teacher=Levels(0.5), student=network, transform=ByLabel(shift=1), calibration=True)
    with pytest.raises(ValueError, match=r"ByLabel requires labels: call augmenter\(images, labels\)"):
        augmenter(images[:5])
    for part in torch.split(order, BATCH):
        augmenter(images[part], labels[part])
    assert augmenter.calibration is not None
    assert augmenter.calibration.reach.tolist() == [[pytest.approx(0.4, abs=1 / 64), 1]]
    plain = made()
    plain(batches()[0], torch.zeros(BATCH, dtype=torch.int64))  # labels that nothing requires are not collected
    assert plain.state_dict()["calibration"]["labels"] is None


@pytest.mark.parametrize(
    ("shape", "transform_", "words"),
    [
        ((4, 1, 4, 4), None, "at least 5 x 5 pixels, got 4 x 4"),
        ((1, 2, 8, 8), None, "Color expected images with 1 or 3 channels, got 2"),
        ((4, 1, 2, 2), Filter(), r"at least 3 x 3 pixels, got 2 x 2; use Filter\(sharpness=None\)"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_the_first_call(
    shape: tuple[int, ...], transform_: Transform | None, words: str
) -> None:
    class Any_(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :4]

    augmenter = HardAugmenter(teacher=Any_(), student=Any_(), transform=transform_, calibration=True)
    state = augmenter.state_dict()
    with pytest.raises(ValueError, match=words):
        augmenter(torch.rand(shape))
    assert equal(augmenter.state_dict(), state)


def test_images_of_different_sizes() -> None:
    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.cat((images.mean((2, 3)), 1 - images.mean((2, 3))), dim=1) - 0.5

    augmenter = HardAugmenter(teacher=Mean(), student=Mean(), transform=transform(), calibration=True)
    augmenter(torch.rand(4, 1, 8, 8))
    with pytest.raises(ValueError, match=r"different sizes, \(1, 8, 8\) and \(1, 8, 9\), .* use calibration=False, or"):
        augmenter(torch.rand(4, 1, 8, 9))
    assert len(augmenter.state_dict()["calibration"]["images"]) == 4
    found = calibrate(Mean(), torch.rand(4, 1, 8, 8), transform())
    ready = HardAugmenter(teacher=Mean(), student=Mean(), transform=transform(), calibration=found)
    for columns in (8, 9):
        assert ready(torch.rand(4, 1, 8, columns)).num_hard == 4


def test_normalised_images() -> None:
    pair, images = ((0.4,), (0.3,)), torch.cat(batches(4))
    augmenter = made(normalization=pair)
    augmenter((images - 0.4) / 0.3)
    expected = calibrate(trained_network(), (images - 0.4) / 0.3, transform(), normalization=pair)
    assert augmenter.calibration is not None
    assert torch.equal(augmenter.calibration.reach, expected.reach)
