"""`PolicyOptimizer`: Adam's ascent, dropped steps, the statistics it updates, and its state."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug import Exploration
from hard_aug.inner_loop.exploration import MaskedSum
from hard_aug.inner_loop.policy_optimizer import MANY_DROPPED, DrawMeans, PolicyOptimizer
from hard_aug.objectives import Constraint, Invariance, KeepRate, Penalty
from hard_aug.policies import Conditional, Gaussian, Policy
from hard_aug.transforms import Affine
from hard_aug.utils.distributed import ProcessGroup

SPEC = Affine().spec
IMAGES = torch.rand(8, 1, 6, 6)
CPU = torch.device("cpu")
NO_EXPLORATION = Exploration(entropy_weight=0.0, min_variance=None)
#: Six of eight predictions.
KEPT = MaskedSum(torch.tensor(6.0), torch.tensor(8.0))


def optimizer_of(
    policy: Policy | None = None,
    *,
    exploration: Exploration = NO_EXPLORATION,
    invariance: Invariance | None = None,
    learning_rate: float = 0.02,
) -> PolicyOptimizer:
    return PolicyOptimizer(
        policy=Gaussian(SPEC) if policy is None else policy,
        invariance=Penalty() if invariance is None else invariance,
        exploration=exploration,
        learning_rate=learning_rate,
        processes=ProcessGroup(CPU),
        device=CPU,
    )


def divergence(mean: float, rows: int = 8) -> MaskedSum:
    return MaskedSum(torch.tensor(mean * rows), torch.tensor(float(rows)))


def draws(mean: float) -> DrawMeans:
    return DrawMeans(torch.tensor(mean), torch.tensor(0.75), torch.tensor(True))


def gradients(policy: Policy, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(parameter.shape, generator=generator) for parameter in policy.parameters()]


def test_steps_are_those_of_adam() -> None:
    optimizer = optimizer_of()
    twin = copy.deepcopy(optimizer.policy)
    adam = torch.optim.Adam(twin.parameters(), lr=0.02, betas=(0.9, 0.99), maximize=True)
    for seed in range(3):
        optimizer.step(gradients(twin, seed), divergence(0.1), KEPT, IMAGES)
        for parameter, gradient in zip(twin.parameters(), gradients(twin, seed), strict=True):
            parameter.grad = gradient
        adam.step()
    for found, expected in zip(optimizer.parameters, twin.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
        assert found.grad is None


def test_a_gradient_whose_square_overflows_is_dropped() -> None:
    """Adam's mean of squares would be infinite from then on, and every further step zero."""
    optimizer = optimizer_of()
    optimizer.step([torch.full_like(p, 1e30) for p in optimizer.parameters], divergence(0.1), KEPT, IMAGES)
    assert int(optimizer.dropped) == 1
    before = [p.detach().clone() for p in optimizer.parameters]
    optimizer.step(gradients(optimizer.policy), divergence(0.1), KEPT, IMAGES)
    assert int(optimizer.dropped) == 1
    assert all(bool((p != old).any()) for p, old in zip(optimizer.parameters, before, strict=True))


def test_the_gradient_of_the_entropy_is_added() -> None:
    optimizer = optimizer_of(exploration=Exploration(entropy_weight=0.5, min_variance=None))
    bonus = torch.autograd.grad(optimizer.policy.relative_entropy(), optimizer.policy.log_std)[0]
    assert bool((bonus > 0).all())  # the policy starts too narrow
    zeros = [torch.zeros_like(parameter) for parameter in optimizer.parameters]
    optimizer.step(zeros, divergence(0.0), KEPT, IMAGES)
    (index,) = [i for i, p in enumerate(optimizer.parameters) if p is optimizer.policy.log_std]
    moment = optimizer.state_dict()["optimizer"]["state"][index]["exp_avg"]
    assert torch.allclose(-moment, 0.1 * 0.5 * bonus)  # Adam descends, and its decay is 0.9


def test_the_invariance_gets_the_mean_over_the_policys_own_draws() -> None:
    for invariance, expected in ((Constraint(0.1, decay=0.0), 0.3), (KeepRate(0.9, decay=0.0), 2 / 3)):
        optimizer = optimizer_of(invariance=invariance)
        rows, none = torch.tensor(3.0), MaskedSum(torch.tensor(0.0), torch.tensor(0.0))
        found = gradients(optimizer.policy)
        optimizer.step(found, MaskedSum(torch.tensor(0.9), rows), MaskedSum(torch.tensor(2.0), rows), IMAGES)
        assert float(invariance.moving_mean) == pytest.approx(expected)
        before = [buffer.clone() for buffer in invariance.buffers()]
        optimizer.step(found, none, none, IMAGES)  # no own draw, which says nothing of the policy
        assert all(map(torch.equal, invariance.buffers(), before))
        assert int(optimizer.dropped) == 0


@pytest.mark.parametrize("policy", [Gaussian(SPEC, std=0.1), Conditional(SPEC, channels=1, std=0.1)])
def test_the_uniform_fraction_follows_the_variance(policy: Policy) -> None:
    exploration = Exploration(min_variance=0.5, min_uniform_fraction=0.05)
    optimizer = optimizer_of(policy, exploration=exploration)
    assert float(optimizer.uniform_fraction) == pytest.approx(0.05)  # until the first step
    optimizer.step(gradients(policy), divergence(0.1), KEPT, IMAGES)
    expected = exploration.uniform_fraction(policy.relative_variance(IMAGES))
    assert float(optimizer.uniform_fraction) == float(expected) > 0.05


def everything(optimizer: PolicyOptimizer) -> list[Tensor]:
    return [tensor.clone() for tensor in optimizer.tensors()]


BAD: dict[str, Any] = {
    "gradient": lambda found: [found[0] * math.nan, *found[1:]],
    "infinite": lambda found: [*found[:-1], found[-1] + math.inf],
}


@pytest.mark.parametrize("make", [Constraint, KeepRate])
@pytest.mark.parametrize("warm", [0, 2])
@pytest.mark.parametrize("bad", [*BAD, "divergence"])
@pytest.mark.parametrize("on_device", [False, True])
def test_a_step_that_is_not_finite_changes_nothing(bad: str, warm: int, on_device: bool, make: Any) -> None:
    """Also by the arithmetic of a GPU, which steps first and then restores."""
    optimizer = optimizer_of(exploration=Exploration(), invariance=make())
    for seed in range(warm):
        optimizer.step(gradients(optimizer.policy, seed), divergence(0.2), KEPT, IMAGES)
    before = everything(optimizer)
    found = BAD.get(bad, lambda given: given)(gradients(optimizer.policy, 5))
    mean = math.nan if bad == "divergence" else 0.2
    if on_device:
        optimizer._step_on_device(found, draws(mean), torch.tensor(False), IMAGES)
    else:
        optimizer.step(found, divergence(mean), KEPT, IMAGES)
    assert int(optimizer.dropped) == 1
    after = everything(optimizer)
    for new, old in zip(after, before, strict=False):
        assert torch.equal(new, old)
    assert not any(bool(moment.any()) for moment in after[len(before) :])  # those that the first step creates


def drop(optimizer: PolicyOptimizer, count: int) -> list[str]:
    """Drop some steps, and return what is said after each."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(count):
            optimizer.step(BAD["gradient"](gradients(optimizer.policy)), divergence(0.1), KEPT, IMAGES)
            optimizer.warn_of_dropped_steps()
    return [str(one.message) for one in said]


def test_many_dropped_steps_in_turn_warn_once() -> None:
    optimizer = optimizer_of()
    assert drop(optimizer, MANY_DROPPED - 1) == []
    optimizer.step(gradients(optimizer.policy), divergence(0.1), KEPT, IMAGES)  # float16 overflows now and then
    assert drop(optimizer, MANY_DROPPED - 1) == []
    (words,) = drop(optimizer, 2 * MANY_DROPPED)
    assert "the last 10 policy updates or more were dropped" in words
    assert "the policy learns nothing" in words
    assert int(optimizer.dropped) == 4 * MANY_DROPPED - 2
    assert drop(copy.deepcopy(optimizer), MANY_DROPPED) == []


@pytest.mark.parametrize("make", [Constraint, KeepRate])
def test_a_step_on_the_device_is_the_step(make: Any) -> None:
    one, other = (optimizer_of(exploration=NO_EXPLORATION, invariance=make()) for _ in range(2))
    for seed in range(3):
        found = gradients(one.policy, seed)
        one.step(found, divergence(0.2), KEPT, IMAGES)
        other._step_on_device(found, draws(0.2), torch.tensor(True), IMAGES)
    for a, b in zip(everything(one), everything(other), strict=True):
        assert torch.allclose(a, b)
    assert int(other.dropped) == 0


def test_an_error_leaves_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = optimizer_of()

    def fail() -> None:
        raise RuntimeError("stop")

    monkeypatch.setattr(optimizer.optimizer, "step", fail)
    with pytest.raises(RuntimeError, match="stop"):
        optimizer.step(gradients(optimizer.policy), divergence(0.1), KEPT, IMAGES)
    assert all(parameter.grad is None for parameter in optimizer.parameters)


def test_draws_are_mixed_with_uniform_ones_only_if_exploration_is_active() -> None:
    for exploration, mixed in ((NO_EXPLORATION, False), (Exploration(min_uniform_fraction=0.5), True)):
        sample = optimizer_of(exploration=exploration).sample(IMAGES, torch.Generator().manual_seed(0))
        assert sample.u.requires_grad
        assert (sample.on_policy is not None) == mixed


@pytest.mark.parametrize("make", [Constraint, KeepRate])
def test_state_round_trip(make: Any) -> None:
    one, other = (optimizer_of(exploration=Exploration(min_variance=0.6), invariance=make()) for _ in range(2))
    one.step(gradients(one.policy), divergence(0.1), KEPT, IMAGES)
    state = one.state_dict()
    other.load_state_dict(copy.deepcopy(state))
    for optimizer in (one, other):
        optimizer.step(gradients(one.policy, 1), divergence(0.2), KEPT, IMAGES)
    for a, b in zip(everything(one), everything(other), strict=True):
        assert torch.equal(a, b)
    assert set(state) == {"policy", "optimizer", "invariance", "uniform_fraction", "dropped_steps"}
    assert not torch.equal(state["policy"]["mean"], one.policy.mean)  # a copy
