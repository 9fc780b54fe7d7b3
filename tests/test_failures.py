"""Failures in the middle: what is dropped, what raises, and that everything else is as it was."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.policies import Gaussian, Generator
from hard_aug.schedules import Alternating, Joint
from hard_aug.transforms import Affine


class Switch(nn.Module):
    """A network whose answer a test can spoil."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.spoil: Any = None

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        return logits if self.spoil is None else self.spoil(images, logits)


def steep(images: Tensor, logits: Tensor) -> Tensor:
    """Finite logits with a gradient that is not: the square root's at zero."""
    return logits + (0 * images.sum((1, 2, 3), keepdim=False)).sqrt()[:, None]


def not_a_number(images: Tensor, logits: Tensor) -> Tensor:
    return logits * math.nan


def failing(images: Tensor, logits: Tensor) -> Tensor:
    raise RuntimeError("out of memory, say")


def kept(augmenter: HardAugmenter) -> dict[str, Any]:
    return copy.deepcopy(augmenter.state_dict())


def assert_equal(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def train(augmenter: HardAugmenter, images: Tensor, steps: int) -> None:
    for _ in range(steps):
        augmenter(images).loss().backward()
        augmenter.step()


@pytest.mark.parametrize("schedule", [Alternating(), Alternating(steps=3), Joint()])
@pytest.mark.parametrize("policy", [Gaussian, Generator])
@pytest.mark.parametrize("warm", [0, 2])
def test_a_gradient_that_is_not_finite_is_dropped(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any, policy: Any, warm: int
) -> None:
    switch, transform = Switch(teacher), Affine()
    augmenter = HardAugmenter(
        teacher=switch, student=plain_student, transform=transform, policy=policy(transform.spec), schedule=schedule
    )
    train(augmenter, images, warm)
    before = kept(augmenter)
    switch.spoil = steep
    train(augmenter, images, 1)
    assert augmenter.dropped_steps == getattr(schedule, "steps", 1)
    after = kept(augmenter)
    for key in ("policy", "optimizer", "invariance", "uniform_share", "pending"):
        assert_equal(after[key], before[key])
    switch.spoil = None
    train(augmenter, images, 1)
    assert not torch.equal(kept(augmenter)["policy"]["log_std"], before["policy"]["log_std"])


@pytest.mark.parametrize(
    ("schedule", "player"),
    [  # Joint asks the student in the loss alone
        (Alternating(), "teacher"),
        (Alternating(), "student"),
        (Alternating(steps=2), "student"),
        (Joint(), "teacher"),
    ],
)
@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [(not_a_number, ValueError, "NaN or infinite logits"), (failing, RuntimeError, "out of memory")],
)
def test_a_network_that_fails_in_a_call_changes_nothing(
    teacher: nn.Module,
    plain_student: nn.Module,
    images: Tensor,
    schedule: Any,
    player: str,
    spoil: Any,
    error: type[Exception],
    words: str,
) -> None:
    switches = {"teacher": Switch(teacher), "student": Switch(plain_student)}
    augmenter, twin = (HardAugmenter(**switches, transform=Affine(), schedule=schedule) for _ in range(2))
    train(augmenter, images, 2)
    train(twin, images, 2)
    before = kept(augmenter)
    switches[player].spoil = spoil
    with pytest.raises(error, match=words):
        augmenter(images)
    assert_equal(kept(augmenter), before)
    switches[player].spoil = None
    assert torch.equal(augmenter(images).images, twin(images).images)


def test_a_loss_that_is_no_number_is_dropped_under_joint(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    switch = Switch(plain_student)
    augmenter = HardAugmenter(teacher=teacher, student=switch, transform=Affine(), schedule=Joint())
    train(augmenter, images, 1)
    before = kept(augmenter)["policy"]
    switch.spoil = not_a_number
    train(augmenter, images, 1)
    assert augmenter.dropped_steps == 1
    assert_equal(kept(augmenter)["policy"], before)


@pytest.mark.parametrize("spoil", [failing, not_a_number])
def test_a_teacher_that_fails_in_a_step_leaves_the_policy(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, spoil: Any
) -> None:
    switch = Switch(teacher)
    switch.train()
    teacher[1].eval()
    augmenter = HardAugmenter(teacher=switch, student=plain_student, transform=Affine(), schedule=Joint())
    train(augmenter, images, 1)
    before = kept(augmenter)
    flags = [module.training for module in switch.modules()]
    augmenter(images).loss().backward()
    switch.spoil = spoil
    with pytest.raises((RuntimeError, ValueError), match=r"out of memory|NaN"):
        augmenter.step()
    assert [module.training for module in switch.modules()] == flags
    switch.spoil = None
    assert_equal(kept(augmenter)["policy"], before["policy"])
    assert_equal(kept(augmenter)["optimizer"], before["optimizer"])
    augmenter.step()  # the batch is still there
    assert not torch.equal(augmenter.policy.mean, before["policy"]["mean"])


class Frozen(nn.Module):
    """A teacher whose forward takes no gradients, as many are shipped."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def test_a_teacher_without_gradients_is_named(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    frozen = Frozen(teacher)
    augmenter = HardAugmenter(teacher=frozen, student=plain_student, transform=Affine())
    with pytest.raises(ValueError, match=r"teacher's logits.*no gradient.*no_grad"):
        augmenter(images)
    augmenter = HardAugmenter(teacher=frozen, student=plain_student, transform=Affine(), schedule=Joint())
    augmenter(images).loss().backward()
    with pytest.raises(ValueError, match=r"teacher's logits.*Joint\(teacher_gradient=False\)"):
        augmenter.step()
    without = Joint(teacher_gradient=False)
    augmenter = HardAugmenter(teacher=frozen, student=plain_student, transform=Affine(), schedule=without)
    train(augmenter, images, 2)
    assert augmenter.dropped_steps == 0


def test_a_student_without_gradients_is_named(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=Frozen(plain_student), transform=Affine())
    with pytest.raises(ValueError, match=r"student's logits.*no gradient.*no_grad"):
        augmenter(images)


def test_frozen_parameters_are_no_hindrance(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    found = []
    for requires_grad in (True, False):
        teacher.requires_grad_(requires_grad)
        for schedule in (Alternating(), Joint()):
            augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), schedule=schedule)
            train(augmenter, images, 2)
            found.append(augmenter.policy.mean.detach().clone())
    assert torch.allclose(found[0], found[2])
    assert torch.allclose(found[1], found[3])


@pytest.mark.parametrize("part", ["generator", "pending", "optimizer", "calls"])
def test_a_state_that_fails_half_way_changes_nothing(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, part: str
) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), schedule=Joint(every=2))
    train(augmenter, images, 3)
    before = kept(augmenter)
    state = copy.deepcopy(before)
    state["calls"], state["uniform_share"] = 12, torch.tensor(0.5)
    state["policy"]["mean"] += 1
    state[part] = {"generator": torch.zeros(3), "pending": {}, "optimizer": {}, "calls": "many"}[part]
    with pytest.raises(ValueError, match="state dict does not fit"):
        augmenter.load_state_dict(state)
    assert_equal(kept(augmenter), before)


@pytest.mark.parametrize("look", ["save", "bad load"])
def test_a_batch_that_waits_for_its_backward_outlives_a_look_at_the_state(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, look: str
) -> None:
    augmenter, twin = (
        HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), schedule=Joint()) for _ in range(2)
    )
    losses = [one(images).loss() for one in (augmenter, twin)]
    if look == "save":
        assert augmenter.state_dict()["calls"] == 1
    else:
        with pytest.raises(ValueError, match="missing"):
            augmenter.load_state_dict({})
    for loss, one in zip(losses, (augmenter, twin), strict=True):
        loss.backward()
        one.step()
    assert torch.equal(augmenter.policy.mean, twin.policy.mean)
    assert bool(twin.policy.mean.any())
