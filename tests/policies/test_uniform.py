"""`Uniform`: random augmentation over the middle of the ranges, which learns nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.policies import Uniform
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine, Color, Compose, Filter

TRANSFORM = Compose(Affine(), Color(), Filter(noise=None))
ROWS = 20_000


def centred(scale: float) -> dict[str, Tensor]:
    """Draw many decoded parameters, each mapped so that its whole range is (-1, 1), or (0, 1) if it is one-sided."""
    u = Uniform(TRANSFORM.spec, scale=scale).sample(torch.zeros(ROWS, 1, 1, 1), torch.Generator().manual_seed(0))
    found = {}
    for name, values in TRANSFORM.decode(u).items():
        parameter = next(p for p in TRANSFORM.spec if p.name == name)
        low, high = parameter.low, parameter.high
        if parameter.logarithmic:
            values, low, high = values.log(), math.log(low), math.log(high)
        found[name] = (values - low) / (high - low) if parameter.one_sided else 2 * (values - low) / (high - low) - 1
    return found


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.1])
def test_parameters_are_uniform_in_the_middle_of_their_ranges(scale: float) -> None:
    """Kolmogorov's test: the empirical distribution function is that of the uniform distribution."""
    one_sided = {p.name for p in TRANSFORM.spec if p.one_sided}
    assert one_sided  # both kinds are there
    for name, values in centred(scale).items():
        probability = values / scale if name in one_sided else (values / scale + 1) / 2
        assert -1e-4 <= float(probability.min()) <= float(probability.max()) <= 1 + 1e-4, name
        expected = (torch.arange(ROWS) + 0.5) / ROWS
        assert float((probability.sort().values - expected).abs().max()) < 1.63 / ROWS**0.5, name


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_entropy_and_variance_are_those_of_the_draws(scale: float) -> None:
    policy = Uniform(TRANSFORM.spec, scale=scale)
    u = policy.sample(torch.zeros(ROWS, 1, 1, 1), torch.Generator().manual_seed(0))
    assert torch.allclose(policy.relative_variance(), policy.relative_variance_of(u), rtol=0.05)
    assert policy.relative_entropy().item() == pytest.approx(len(TRANSFORM.spec) * math.log(scale))


def test_the_whole_range_is_the_standard_normal() -> None:
    images, size = torch.zeros(5, 1, 1, 1), TRANSFORM.size
    found = Uniform(TRANSFORM.spec).sample(images, torch.Generator().manual_seed(1))
    assert torch.equal(found, torch.randn(5, size, generator=torch.Generator().manual_seed(1)))


def test_nothing_is_learned_or_saved() -> None:
    policy = Uniform(TRANSFORM.spec, scale=0.5)
    assert list(policy.parameters()) == []
    assert policy.state_dict() == {}
    assert not policy.is_per_sample
    assert not policy.is_conditional


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.01, float("nan")])
def test_scales_out_of_range(scale: float) -> None:
    with pytest.raises(ValueError, match=rf"scale={scale}: expected a fraction in \(0, 1\]"):
        Uniform(TRANSFORM.spec, scale=scale)


def test_what_requires_something_to_learn_raises(teacher: nn.Module, student: nn.Module) -> None:
    policy = Uniform(Affine().spec)
    with pytest.raises(ValueError, match=r"Uniform learns none by gradients; use schedule=Alternating\(\)"):
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), policy=policy, schedule=Threshold())


@pytest.mark.parametrize("schedule", [None, Alternating(steps=3)])
def test_an_augmenter_draws_from_it_and_scores_nothing(
    teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Alternating | None
) -> None:
    forwards = []
    policy = Uniform(Affine().spec, scale=0.25)
    augmenter = HardAugmenter(
        teacher=teacher, student=student, transform=Affine(), policy=policy, schedule=schedule, seed=4
    )
    augmenter(images)
    for network in (teacher, student):
        network.register_forward_hook(lambda module, given, out: forwards.append(module))
    augmenter(images)
    assert forwards == [teacher, teacher]  # clean and hard views
    generator = torch.Generator().manual_seed(4)
    first, second = policy.sample(images, generator), policy.sample(images, generator)
    assert not torch.equal(first, second)
    assert torch.equal(augmenter(images).u, policy.sample(images, generator))
