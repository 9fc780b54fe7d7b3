"""What all policies have in common: where they start, what they draw from, how spread is measured, that they learn."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.policies import Conditional, Gaussian, Generator, GroupBandit, Policy, Search, Uniform
from hard_aug.policies.base import std_of_reach
from hard_aug.schedules import Alternating
from hard_aug.transforms import Affine, Color, Compose, Filter, Transform
from tests.helpers.defaults import defaults

TRANSFORM = Compose(Affine(), Color())
SPEC = TRANSFORM.spec
BLANK = torch.zeros(4000, 1, 1, 1)


def conditional(spec: Any, **settings: Any) -> Conditional:
    return Conditional(spec, channels=1, **settings)


LEARNED = [Gaussian, Generator, conditional]


def draw(policy: Policy, seed: int = 0, images: Tensor = BLANK) -> Tensor:
    return policy.sample(images, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("make", LEARNED)
def test_the_start_is_spread_around_the_identity(make: Any) -> None:
    u = draw(make(SPEC))
    assert u.shape == (4000, len(SPEC))
    assert u.dtype == torch.float32
    assert torch.allclose(u.mean(0), torch.zeros(len(SPEC)), atol=0.03)
    assert torch.allclose(u.std(0), torch.full((len(SPEC),), 0.3), atol=0.03)


@pytest.mark.parametrize("make", [*LEARNED, GroupBandit, Uniform])
def test_draws_come_from_the_given_generator_only(make: Any) -> None:
    before = torch.get_rng_state()
    policy = make(SPEC)
    assert torch.equal(draw(policy), draw(policy))
    assert not torch.equal(draw(policy), draw(policy, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert draw(policy, images=BLANK[:0]).shape == (0, len(SPEC))


def search(spec: Any) -> Search:
    return Search(spec, proposal=Generator(spec))


def everything(policy: Policy) -> list[Tensor]:
    """All numbers of a policy, a draw and both measures of its spread."""
    images = torch.linspace(0, 1, 6 * 64, dtype=torch.float32, device="cpu").view(6, 1, 8, 8)
    numbers = [*policy.parameters(), *policy.buffers()]
    return [*numbers, draw(policy, images=images), policy.relative_entropy(images), policy.relative_variance(images)]


@pytest.mark.parametrize("make", [*LEARNED, GroupBandit, Uniform, search])
@pytest.mark.parametrize(
    ("dtype", "device"),
    [(torch.float64, "cpu"), (torch.bfloat16, "cpu"), (torch.float16, "cpu"), (torch.float32, "meta")],
)
def test_the_defaults_of_torch_change_nothing(make: Any, dtype: torch.dtype, device: str) -> None:
    expected = everything(make(SPEC))
    with defaults(dtype, device):
        found = everything(make(SPEC))
    for one, other in zip(found, expected, strict=True):
        assert (one.dtype, one.device) == (other.dtype, other.device)
        assert torch.equal(one, other)


@pytest.mark.parametrize("make", [*LEARNED, GroupBandit, Uniform, search])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_casts_of_a_module_that_holds_it_change_nothing(make: Any, dtype: torch.dtype) -> None:
    policy = perturbed(make(SPEC), 0.3)
    expected = [one.clone() for one in everything(policy)]
    nn.ModuleDict({"policy": policy, "head": nn.Linear(2, 2)}).to(dtype)
    for one, other in zip(everything(policy), expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    policy.to("meta", dtype)
    assert {tensor.device.type for tensor in (*policy.parameters(), *policy.buffers())} == {"meta"}


@pytest.mark.parametrize("make", [*LEARNED, GroupBandit, Uniform, search])
@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_small_batches(make: Any, rows: int) -> None:
    policy, images = make(SPEC), BLANK[:rows]
    u = draw(policy, images=images)
    assert u.shape == (rows, len(SPEC))
    assert bool(u.isfinite().all())
    if policy.is_conditional and not rows:
        for measure in (policy.relative_entropy, policy.relative_variance):
            with pytest.raises(ValueError, match="expected at least one, got none"):
                measure(images)
        return
    assert bool(policy.relative_entropy(images).isfinite())
    assert bool(policy.relative_variance(images).isfinite().all())


def test_numbers_of_numpy() -> None:
    made = [
        Gaussian(SPEC, std=np.float32(0.5)),
        Generator(SPEC, std=np.float64(0.5), width=np.int64(4), seed=np.uint8(3)),
        Conditional(SPEC, std=np.float16(0.5), channels=np.int32(1), width=torch.tensor(4), seed=np.int64(3)),  # type: ignore[arg-type]
        Search(SPEC, candidates=np.int64(2), steps=np.uint8(1), step_size=np.float32(0.5)),
        Uniform(SPEC, scale=np.float32(0.5)),
    ]
    for policy in made:
        kept = {name: value for name, value in vars(policy).items() if not name.startswith("_") and name != "spec"}
        assert json.loads(json.dumps(kept)) == kept
    assert torch.equal(draw(made[1]), draw(Generator(SPEC, std=0.5, width=4, seed=3)))
    with pytest.raises(ValueError, match="seed=True: expected an integer"):
        Generator(SPEC, seed=True)
    with pytest.raises(ValueError, match="width=True: expected an integer"):
        Conditional(SPEC, width=True)


@pytest.mark.parametrize("make", LEARNED)
def test_a_start_from_calibrated_ranges_varies_as_uniform_draws_from_them(make: Any) -> None:
    policy, reach = make(SPEC), torch.linspace(0.05, 1, len(SPEC))
    policy.set_reach(torch.stack((reach, reach), dim=1))
    u = draw(policy, images=torch.zeros(20_000, 1, 1, 1)).detach()
    assert torch.allclose(policy.relative_variance_of(u), reach.square(), rtol=0.06)
    assert torch.allclose(u.mean(0), torch.zeros(len(SPEC)), atol=0.03)
    assert policy.starts_from_reach
    apart = torch.stack((reach, reach.flip(0)), dim=1)  # of both sides, the mean of the squares counts
    policy.set_reach(apart)
    u = draw(policy, images=torch.zeros(20_000, 1, 1, 1)).detach()
    assert torch.allclose(policy.relative_variance_of(u), apart.square().mean(1), rtol=0.06)


def test_the_standard_deviation_of_a_reach() -> None:
    assert torch.allclose(std_of_reach(torch.ones(1, 2)), torch.ones(1))
    assert std_of_reach(torch.full((1, 2), 1e-3)).item() == pytest.approx(1e-3 * (math.pi / 6) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("make", [*LEARNED, GroupBandit, search])
@pytest.mark.parametrize("reach", [torch.ones(4, 2), torch.zeros(10, 2), torch.full((10, 2), 1.5)])
def test_reaches_that_do_not_fit_change_nothing(make: Any, reach: Tensor) -> None:
    policy = make(SPEC)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    with pytest.raises(ValueError, match=r"reach: expected \(10, 2\) numbers in \(0, 1\]"):
        policy.set_reach(reach)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_most_policies_have_no_start_that_ranges_could_set() -> None:
    policy = Uniform(SPEC)
    assert not policy.starts_from_reach
    with pytest.raises(ValueError, match=r"Uniform has no start .* use calibration=False"):
        policy.set_reach(torch.ones(len(SPEC), 2))
    assert not policy.learns_from_scores
    assert policy.statistics(torch.zeros(2, len(SPEC)), torch.zeros(2)) == []


def perturbed(policy: Policy, size: float = 0.1) -> Policy:
    """Move the parameters off their start, where some gradients are zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return policy


@pytest.mark.parametrize("make", LEARNED)
def test_gradients_of_draws_are_those_of_finite_differences(make: Any) -> None:
    policy, images = perturbed(make(SPEC)), torch.rand(200, 1, 16, 16)
    weights = torch.randn(len(SPEC), len(SPEC))

    def value() -> Tensor:
        u = draw(policy, images=images)
        return ((u @ weights) * u).sum(1).mean()

    gradients = torch.autograd.grad(value(), list(policy.parameters()))
    for (name, parameter), gradient in zip(policy.named_parameters(), gradients, strict=True):
        direction, step = gradient / gradient.norm(), 1e-2
        with torch.no_grad():
            parameter.add_(step * direction)
            above = float(value())
            parameter.sub_(2 * step * direction)
            below = float(value())
            parameter.add_(step * direction)
        assert (above - below) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02), name


@pytest.mark.parametrize("transform", [TRANSFORM, Filter(solarize=1.0, motion_blur=1.0)])
@pytest.mark.parametrize("make", [Gaussian, Generator])
def test_relative_variance_is_that_of_the_decoded_parameters(make: Any, transform: Transform) -> None:
    spec = transform.spec
    policy = make(spec, std=1.0)
    assert torch.allclose(policy.relative_variance(), torch.ones(len(spec)), atol=0.12)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name != "log_std":
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        policy.log_std.copy_(torch.linspace(-4, 0.5, len(spec)))
    values = transform.decode(draw(policy).detach())
    for variance, parameter in zip(policy.relative_variance(), spec, strict=True):
        decoded = values[parameter.name].log() if parameter.logarithmic else values[parameter.name]
        low, high = (
            (math.log(parameter.low), math.log(parameter.high))
            if parameter.logarithmic
            else (parameter.low, parameter.high)
        )
        expected = float(decoded.var()) / ((high - low) ** 2 / 12)
        assert float(variance) == pytest.approx(expected, rel=0.15, abs=1e-3), parameter.name
        assert not variance.requires_grad


@pytest.mark.parametrize("make", LEARNED)
def test_state_round_trip(make: Any) -> None:
    policy, other = perturbed(make(SPEC), 1.0), make(SPEC)
    other.load_state_dict(policy.state_dict())
    assert torch.equal(draw(policy), draw(other))


@pytest.mark.parametrize("make", LEARNED)
def test_settings_out_of_range(make: Any) -> None:
    with pytest.raises(ValueError, match=r"std=0\.0: expected a positive number"):
        make(SPEC, std=0.0)
    with pytest.raises(ValueError, match=r"requires at least one parameter; pass transform\.spec"):
        make(())


@pytest.mark.parametrize("make", [*LEARNED, GroupBandit, Uniform])
def test_most_policies_refine_nothing(make: Any) -> None:
    """By default the draw is returned, and nothing is sampled or scored."""

    def fail(*arguments: Any) -> Any:
        raise AssertionError("called")

    policy = make(SPEC)
    u = draw(policy)
    assert policy.refine(u, sample=fail, score=fail, score_with_gradient=fail) is u
    assert not policy.is_per_sample


def test_the_repr_shows_names_and_settings() -> None:
    affine = "translation_x, translation_y, rotation, scale_x, scale_y, shear"
    assert repr(Gaussian(Affine().spec)) == f"Gaussian({affine}; std=None)"
    assert repr(Gaussian(SPEC)) == f"Gaussian({affine}, brightness, hue, ... (10 in total); std=None)"
    assert repr(Uniform(Affine().spec, scale=0.5)) == f"Uniform({affine}; scale=0.5)"
    assert f"{affine}; channels=1, std=None, width=16, seed=0" in repr(Conditional(Affine().spec, channels=1))


class Brightness(nn.Module):
    """Its prediction depends on the mean intensity alone: it is invariant to shifts and not to brightness."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        above = 20 * (images.mean((1, 2, 3)) - self.threshold)
        return torch.stack((above, -above), dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("make", LEARNED)
def test_the_invariance_of_a_small_problem_is_found(images: Tensor, make: Any) -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(400, 16), nn.Tanh(), nn.Linear(16, 2))
    inside = torch.zeros(64, 1, 20, 20)
    inside[:, :, 4:16, 4:16] = images.repeat(8, 1, 1, 1) * torch.linspace(0.4, 1, 64)[:, None, None, None]
    grey = Color(contrast=None, saturation=None, hue=None)
    transform = Compose(Affine(translation=0.15, rotation=None, scale=None, shear=None), grey)
    # Every image is near the threshold, so that any change of brightness changes the prediction.
    teacher = Brightness(float(inside.mean((1, 2, 3)).median()))
    augmenter = HardAugmenter(
        teacher=teacher,
        student=student,
        transform=transform,
        policy=make(transform.spec),
        schedule=Alternating(),
        learning_rate=0.02,
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        augmenter(inside).loss().backward()
        optimizer.step()
    std = draw(augmenter.policy, images=inside.repeat(30, 1, 1, 1)).std(0)
    assert [parameter.name for parameter in transform.spec] == ["translation_x", "translation_y", "brightness"]
    assert float(std[:2].detach().min()) > 4 * float(std[2].detach())
