"""Failures inside a call: what is dropped, what raises, and that everything else is unchanged."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.policies import Gaussian, Generator, Search
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine


class Switch(nn.Module):
    """A network whose logits a test can replace."""

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


@pytest.mark.parametrize("schedule", [Alternating(), Alternating(steps=3), Threshold(max_steps=2)])
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
    assert augmenter.dropped_steps == getattr(schedule, "steps", 2)
    after = kept(augmenter)
    for key in ("policy", "optimizer", "invariance", "uniform_fraction"):
        assert_equal(after[key], before[key])
    switch.spoil = None
    train(augmenter, images, 1)
    assert not torch.equal(kept(augmenter)["policy"]["log_std"], before["policy"]["log_std"])


def test_a_policy_that_learns_nothing_is_noticed_once(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    switch = Switch(teacher)
    augmenter = HardAugmenter(teacher=switch, student=plain_student, transform=Affine(), schedule=Alternating(steps=3))
    train(augmenter, images, 2)
    switch.spoil = steep
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train(augmenter, images, 3)
        assert said == []
        train(augmenter, images, 20)
    assert augmenter.dropped_steps == 69
    assert len(said) == 1
    assert "policy updates or more were dropped" in str(said[0].message)
    assert said[0].filename == __file__


@pytest.mark.parametrize(
    ("schedule", "network"),
    [
        (Alternating(), "teacher"),
        (Alternating(), "student"),
        (Alternating(steps=2), "student"),
        (Threshold(), "teacher"),
        (Threshold(), "student"),
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
    network: str,
    spoil: Any,
    error: type[Exception],
    words: str,
) -> None:
    switches = {"teacher": Switch(teacher), "student": Switch(plain_student)}
    augmenter, twin = (HardAugmenter(**switches, transform=Affine(), schedule=schedule) for _ in range(2))
    train(augmenter, images, 2)
    train(twin, images, 2)
    before = kept(augmenter)
    switches[network].spoil = spoil
    with pytest.raises(error, match=words):
        augmenter(images)
    assert_equal(kept(augmenter), before)
    switches[network].spoil = None
    assert torch.equal(augmenter(images).images, twin(images).images)


class NoGrad(nn.Module):
    """A network whose forward runs under `torch.no_grad()`, as in some published models."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_a_network_without_gradients_is_named(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, network: str
) -> None:
    networks = {"teacher": teacher, "student": plain_student}
    networks[network] = NoGrad(networks[network])
    augmenter = HardAugmenter(**networks, transform=Affine())
    with pytest.raises(ValueError, match=rf"{network}'s logits carry no gradient.*no_grad.*policy=Search"):
        augmenter(images)
    search = Search(Affine().spec, candidates=2)  # the error's suggestion works
    hard = HardAugmenter(**networks, transform=Affine(), policy=search)(images)
    assert bool(hard.disagreement.isfinite().all())


def test_frozen_parameters_make_no_difference(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    found = []
    for requires_grad in (True, False):
        teacher.requires_grad_(requires_grad)
        augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), schedule=Alternating())
        train(augmenter, images, 2)
        found.append(augmenter.policy.mean.detach().clone())
    assert torch.allclose(found[0], found[1])


@pytest.mark.parametrize("part", ["generator", "schedule", "optimizer", "calls"])
def test_a_state_that_fails_half_way_changes_nothing(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, part: str
) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), schedule=Threshold(every=2))
    train(augmenter, images, 3)
    before = kept(augmenter)
    state = copy.deepcopy(before)
    state["calls"], state["uniform_fraction"] = 12, torch.tensor(0.5)
    state["policy"]["mean"] += 1
    state[part] = {"generator": torch.zeros(3), "schedule": {"mean": 1}, "optimizer": {}, "calls": "many"}[part]
    with pytest.raises(ValueError, match="state dict does not fit"):
        augmenter.load_state_dict(state)
    assert_equal(kept(augmenter), before)


def test_a_state_that_is_no_dictionary(teacher: nn.Module, plain_student: nn.Module) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine())
    with pytest.raises(TypeError, match=r"expected that of HardAugmenter\.state_dict\(\), got list"):
        augmenter.load_state_dict([])  # type: ignore[arg-type]  # that is the point
