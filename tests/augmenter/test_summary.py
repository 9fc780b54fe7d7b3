"""Summaries: equal to plain statistics of draws, with rates over the last calls, and leaving everything as it was."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hard_aug import Calibration, HardAugmenter
from hard_aug.policies import Conditional, Gaussian, Generator, GroupBandit, Policy, Search, Uniform
from hard_aug.schedules import Alternating, Joint
from hard_aug.summary import DRAWS, SEED, ParameterSummary, PolicySummary, summarize
from hard_aug.transforms import Affine, Color, Compose, Elastic, Filter, PatchMix, Transform, menu
from hard_aug.utils.running_mean import DECAY
from tests.augmenter.test_failures import assert_equal

#: One-sided, logarithmic and two-sided parameters, single and in groups, and a group of more than eight.
TRANSFORM = Compose(Affine(), Elastic(control=4), Filter(sharpness=None))


def calibration_of(transform: Transform, reach: Tensor) -> Calibration:
    kept = torch.full_like(reach, 0.9)
    return Calibration(transform, reach, kept, 0.9, 0.5, 0.8, 0.8, images=64, evaluations=64)


def row_of(summary: PolicySummary, name: str) -> ParameterSummary:
    return {row.name: row for row in summary.rows}[name]


def moved_gaussian(transform: Transform) -> Gaussian:
    """A Gaussian that is off the identity, by another distance and with another width for each parameter."""
    policy = Gaussian(transform.spec)
    with torch.no_grad():
        policy.mean.copy_(torch.linspace(-0.8, 0.9, policy.size))
        policy.log_std.copy_(torch.linspace(-2.0, 0.0, policy.size))
    return policy


@pytest.mark.parametrize("narrowed", [False, True])
def test_drawn_ranges_and_sizes_are_percentiles_of_decoded_draws(narrowed: bool) -> None:
    transform: Transform = TRANSFORM
    if narrowed:
        transform = transform.narrowed({"rotation": (-5.0, 20.0), "scale": (0.9, 1.2), "blur": (0.0, 0.5)})
    policy = moved_gaussian(transform)
    summary = summarize(transform, policy)
    u = policy.sample(torch.zeros(DRAWS, 1, 1, 1), torch.Generator().manual_seed(SEED)).detach()
    decoded = {name: values.double().numpy() for name, values in transform.decode(u).items()}
    singles = [p for p in transform.spec if p.group != "elastic"]
    assert [row.name for row in summary.rows if row.group != "elastic"] != []
    assert {row.name for row in summary.rows} == {p.name for p in singles} | {"elastic"}
    for parameter in singles:
        row = row_of(summary, parameter.name)
        values = decoded[parameter.name]
        assert row.drawn == pytest.approx(np.quantile(values, (0.05, 0.95)), rel=1e-3, abs=1e-4)
        assert row.full == (parameter.low, parameter.high)
        assert (row.identity, row.unit, row.calibrated) == (parameter.identity, parameter.unit, None)
        sizes = np.abs(np.log(values)) if parameter.logarithmic else np.abs(values - parameter.identity)
        if row.frequency == 1:  # else those draws are left out in which the group is at the identity
            size = np.quantile(sizes, 0.95)
            assert row.size == pytest.approx(np.exp(size) if parameter.logarithmic else size, rel=1e-3)


def test_a_large_group_is_one_row_in_parts_of_its_ranges() -> None:
    policy = moved_gaussian(TRANSFORM)
    row = row_of(summarize(TRANSFORM, policy), "elastic")
    u = policy.sample(torch.zeros(DRAWS, 1, 1, 1), torch.Generator().manual_seed(SEED)).detach()
    columns = [column for column, parameter in enumerate(TRANSFORM.spec) if parameter.group == "elastic"]
    parts = torch.special.erf(u[:, columns] / math.sqrt(2)).numpy()
    assert len(columns) == 32
    assert row.drawn == pytest.approx(np.quantile(parts, (0.05, 0.95)), abs=1e-4)
    assert row.size == pytest.approx(np.quantile(np.abs(parts), 0.95), abs=1e-4)
    assert (row.full, row.identity, row.unit, row.frequency) == ((-1.0, 1.0), 0.0, "part of the range", 1.0)
    mix = PatchMix(image_size=16, patch_size=4)
    (mask,) = summarize(mix, Uniform(mix.spec)).rows
    assert mask.full == (0.0, 1.0)
    assert mask.drawn == pytest.approx((0.05, 0.95), abs=0.01)


def test_a_group_is_used_where_a_value_is_more_than_a_hundredth_of_its_range_away() -> None:
    transform = Color(contrast=None, saturation=None, hue=None)
    policy = Gaussian(transform.spec, std=0.0125)
    row = summarize(transform, policy).rows[0]
    threshold = 0.01 * math.sqrt(math.pi / 2)  # the u at which 2 Phi(u) - 1 is 0.01
    expected = 1 - math.erf(threshold / 0.0125 / math.sqrt(2))
    assert row.frequency == pytest.approx(expected, abs=0.02)
    assert 0.01 * 0.2 < row.size < 0.01  # of draws that are used
    assert summarize(transform, Gaussian(transform.spec, std=1e-4)).rows[0].frequency == 0
    never = summarize(Affine(), Gaussian(Affine().spec, std=1e-4))
    assert (row_of(never, "rotation").size, row_of(never, "scale_x").size) == (0.0, 1.0)
    assert never.in_use == ()
    assert "of the images: no group." in str(never)


def test_a_group_bandit_has_the_ranges_it_draws_from_and_its_frequencies() -> None:
    transform = menu()
    policy = GroupBandit(transform.spec, groups=(1, 1))
    reach = torch.full((transform.size, 2), 0.5)
    reach[[p.name for p in transform.spec].index("rotation")] = torch.tensor([1 / 64, 0.25])
    policy.set_reach(reach)
    weights = torch.full((len(policy.names),), 0.3 / 13)
    weights[policy.names.index("rotation")] = 0.7
    policy.weights.copy_(weights)
    summary = summarize(transform, policy, calibration=calibration_of(transform, reach))
    first = summary.rows[0]
    assert first.name == "rotation"
    assert first.drawn == first.calibrated == pytest.approx((-180 / 64, 45))
    assert first.frequency == pytest.approx(0.7, abs=0.02)  # also where a change is below 1 % of the range
    assert first.size == pytest.approx(0.9 * 45, rel=0.03)  # half of the draws are above
    assert summary.in_use == ("rotation",)
    assert sum(summary.frequencies.values()) == pytest.approx(1)
    assert row_of(summary, "scale_x").drawn == pytest.approx((2**-0.5, 2**0.5))
    assert row_of(summary, "blur").drawn == pytest.approx((0, 1.5))
    assert row_of(summary, "elastic").drawn == row_of(summary, "elastic").calibrated == (-0.5, 0.5)
    names = [row.group for row in summary.rows]
    assert all(names.count(name) == names[names.index(name) :][: names.count(name)].count(name) for name in names)
    assert sorted(summary.frequencies.values(), reverse=True) == list(summary.frequencies.values())


def test_a_group_that_is_switched_off_is_not_used() -> None:
    transform = Affine().narrowed({"rotation": (0.0, 0.0), "shear": (0.0, 0.2)})
    for policy in (Uniform(transform.spec), GroupBandit(transform.spec)):
        summary = summarize(transform, policy)
        row = row_of(summary, "rotation")
        assert (row.frequency, row.drawn, row.size) == (0.0, (0.0, 0.0), 0.0)
        assert row.position(0.0) == 0
        assert row_of(summary, "shear").drawn[0] == 0


def test_uniform_draws_count() -> None:
    transform = Color(contrast=None, saturation=None, hue=None)
    policy = Gaussian(transform.spec, std=1e-4)
    summary = summarize(transform, policy, uniform_fraction=0.4)
    assert summary.rows[0].frequency == pytest.approx(0.4 * 0.99, abs=0.02)
    assert "of 4096 draws (40 % of which are uniform" in str(summary).replace("\n", " ")


def test_a_search_is_summarised_by_its_proposal() -> None:
    transform = menu(elastic=None)
    policy = GroupBandit(transform.spec)
    found = summarize(transform, Search(transform.spec, proposal=policy))
    assert found == summarize(transform, policy)
    assert found.has_ranges
    assert found.policy == "GroupBandit"


def test_a_conditional_policy_is_summarised_over_images(images: Tensor) -> None:
    transform = Affine()
    policy = Conditional(transform.spec, channels=1, width=4)
    with pytest.raises(ValueError, match=r"Conditional has another distribution for each image.*summary\(images\)"):
        summarize(transform, policy)
    with pytest.raises(ValueError, match="give images"):
        summarize(transform, policy, images=images[:0])
    images = images.repeat(64, 1, 1, 1)
    summary = summarize(transform, policy, images=images)
    assert summary.draws == DRAWS
    with torch.no_grad():
        policy.network[-1].bias[2] = 3.0  # the mean of the rotation
    assert min(row_of(summarize(transform, policy, images=images[:100]), "rotation").drawn) > 25


def test_very_many_parameters_are_summarised_with_fewer_draws() -> None:
    transform = PatchMix(image_size=48, patch_size=1)
    summary = summarize(transform, Uniform(transform.spec))
    assert summary.draws == 1820
    assert summary.rows[0].drawn == pytest.approx((0.05, 0.95), abs=0.01)


def test_positions() -> None:
    factor = ParameterSummary("scale", "scale", "factor", 1.0, 0.5, (0.5, 2.0), 2.0, None, (0.25, 2.0), True)
    assert [factor.position(value) for value in (0.25, 0.5, 1.0, 2.0)] == pytest.approx([-1, -0.5, 0, 1])
    strength = ParameterSummary("blur", "blur", "pixels", 0.0, 0.5, (0.0, 1.0), 1.0, None, (0.0, 4.0), False)
    assert [strength.position(value) for value in (0.0, 1.0, 4.0)] == [0, 0.25, 1]


def test_parts_that_do_not_fit() -> None:
    transform, other = Affine(), Affine(rotation=5.0)
    with pytest.raises(ValueError, match=r"use Uniform\(transform.spec\)"):
        summarize(transform, Uniform(other.spec))
    with pytest.raises(TypeError, match="policy: expected a Policy"):
        summarize(transform, Uniform)  # type: ignore[arg-type]  # the mistake that is tested
    with pytest.raises(ValueError, match="calibration: it is of another transform"):
        summarize(transform, Uniform(transform.spec), calibration=calibration_of(other, torch.ones(6, 2)))


def test_the_printed_table_and_the_numbers_for_json() -> None:
    transform = Color(saturation=None, hue=None)
    reach = torch.tensor([[0.5, 1.0], [1.0, 1.0]])
    summary = summarize(
        transform, Uniform(transform.spec), calibration=calibration_of(transform, reach), kept=0.873, disagreement=0.25
    )
    text = str(summary).splitlines()
    assert text[0].split("  ")[0] == "parameter"
    assert "calibrated range" in text[0]
    assert len({len(line) for line in text[:3]}) == 1
    assert next(line for line in text if line.startswith("brightness")).split("  ")[-2].strip() == "-0.2 to 0.2"
    assert "-0.1 to 0.2" in str(summary)
    flat = str(summary).replace("\n", " ")
    assert "5th to 95th percentile of what Uniform draws" in flat
    assert "In use on at least 10 % of the images: all 2 groups." in flat
    assert "the teacher keeps 87 % of its predictions; in about the last 100 policy updates" in flat
    assert flat.endswith("the mean disagreement is 0.25.")
    assert max(map(len, text)) <= 120
    numbers = json.loads(json.dumps(summary.to_dict()))
    assert numbers["rows"][0]["group"] == numbers["in_use"][0]
    assert (numbers["kept"], numbers["keep"], numbers["draws"]) == (0.873, 0.9, DRAWS)
    plain = str(summarize(transform, Uniform(transform.spec)))
    assert "calibrated" not in plain
    assert plain.endswith("There were no hard images yet.")


@pytest.mark.parametrize("make", [None, Gaussian, Generator, lambda spec: Search(spec), "conditional"])
def test_an_augmenter_is_left_as_it_was(
    teacher: nn.Module, student: nn.Module, plain_student: nn.Module, images: Tensor, make: Any
) -> None:
    def build() -> HardAugmenter:
        if make is None:
            return HardAugmenter(teacher=teacher, student=plain_student, calibration=False)
        spec = Affine().spec
        policy: Policy = Conditional(spec, channels=1, width=4) if make == "conditional" else make(spec)
        return HardAugmenter(
            teacher=teacher, student=plain_student, transform=Affine(), policy=policy, schedule=Alternating()
        )

    augmenter, twin = build(), build()
    for one in (augmenter, twin):
        one(images)
    before, random = augmenter.state_dict(), torch.get_rng_state()
    first = augmenter.summary(images)
    assert augmenter.summary(images) == first
    assert_equal(augmenter.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(augmenter(images).images, twin(images).images)


def test_the_rates_are_those_of_the_last_calls(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = HardAugmenter(
        teacher=teacher, student=plain_student, transform=Affine(rotation=180.0), hard_fraction=0.5, warmup_calls=1
    )
    augmenter(images)
    assert augmenter.summary().kept is None
    assert augmenter.summary().disagreement is None
    rates = []
    for _ in range(5):
        hard = augmenter(images)
        rates.append(float(hard.teacher_consistent[: hard.num_hard].float().mean()))
    augmenter.generate(images.flip(2))  # evaluations do not count
    weights = [DECAY**age for age in reversed(range(5))]
    expected = sum(w * rate for w, rate in zip(weights, rates, strict=True)) / sum(weights)
    summary = augmenter.summary()
    assert summary.kept == pytest.approx(expected, abs=1e-6)
    assert 0 < expected < 1
    assert summary.disagreement is not None
    assert summary.disagreement > 0
    resumed = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(rotation=180.0))
    resumed.load_state_dict(augmenter.state_dict())
    assert resumed.summary().kept is None
    assert resumed.summary().rows == summary.rows


@pytest.mark.parametrize("schedule", [Alternating(), Joint()])
def test_the_disagreement_is_that_of_policy_updates(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, schedule: Any
) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), schedule=schedule)
    found = []
    for _ in range(40):
        hard = augmenter(images)
        hard.loss().backward()
        found.append(float(hard.disagreement.mean()))
    augmenter.state_dict()  # Joint's last update
    assert augmenter.summary().disagreement == pytest.approx(np.mean(found), rel=0.2)


def test_a_calibration_is_in_the_summary(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    transform = Affine()
    calibration = calibration_of(transform, torch.full((6, 2), 0.25))
    augmenter = HardAugmenter(
        teacher=teacher,
        student=plain_student,
        transform=transform,
        policy=GroupBandit(transform.spec),
        calibration=calibration,
    )
    summary = augmenter.summary()
    rotation = row_of(summary, "rotation")
    low, high = transform.spec[2].low, transform.spec[2].high
    assert rotation.drawn == rotation.calibrated == (low / 4, high / 4)
    assert summary.keep == 0.9
