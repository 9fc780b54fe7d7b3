"""`GroupBandit`: which groups it draws, from which ranges, and what it learns from scores."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.objectives import Reference
from hard_aug.ops.elementwise import unit_interval
from hard_aug.policies import GroupBandit, Search
from hard_aug.policies.group_bandit import PRIOR
from hard_aug.schedules import Alternating, Threshold
from hard_aug.transforms import Affine, Color, Compose, menu
from hard_aug.utils.rng import ShardedGenerator

SPEC = Affine().spec
#: The groups of `SPEC`, and their columns of `u`.
COLUMNS = {"translation": [0, 1], "rotation": [2], "scale": [3, 4], "shear": [5]}
ROWS = 20_000


def draw(policy: GroupBandit, rows: int = ROWS, seed: int = 0) -> Tensor:
    return policy.sample(torch.zeros(rows, 1, 1, 1), torch.Generator().manual_seed(seed))


def learned(policy: GroupBandit, added: list[float], *, noise: float = 0.0, updates: int = 1) -> GroupBandit:
    """Have the policy learn from scores that are a sum over the groups in use, and noise."""
    for update in range(updates):
        u = draw(policy, rows=2000, seed=update)
        scores = policy.used_groups(u).float() @ torch.tensor(added)
        scores += noise * torch.randn(len(u), generator=torch.Generator().manual_seed(100 + update))
        policy.learn(policy.statistics(u, scores))
    return policy


def test_groups_are_those_of_the_specification() -> None:
    policy = GroupBandit(SPEC)
    assert policy.names == tuple(COLUMNS)
    used = policy.used_groups(torch.tensor([[0.0, -1, 0, 0, 0, 0], [0, 0, 0, 1, 0, -1], [0] * 6]))
    assert used.tolist() == [[True, False, False, False], [False, False, True, True], [False] * 4]
    assert len(GroupBandit(menu().spec).names) == 14


@pytest.mark.parametrize("groups", [(1, 1), (1, 3), (2, 4), (3, 3)])
def test_the_number_of_groups_is_uniform(groups: tuple[int, int]) -> None:
    policy = GroupBandit(menu().spec, groups=groups)
    counts = policy.used_groups(draw(policy, rows=6000)).sum(1)
    fewest, most = groups
    expected = 6000 / (most - fewest + 1)
    for number in range(fewest, most + 1):
        assert abs(int((counts == number).sum()) - expected) <= 4 * expected**0.5
    assert int(counts.min()) == fewest
    assert int(counts.max()) == most


@pytest.mark.parametrize(("groups", "expected"), [((3, 9), {3, 4}), ((9, 9), {4}), ((1, 99), {1, 2, 3, 4})])
def test_of_fewer_groups_all_are_used(groups: tuple[int, int], expected: set[int]) -> None:
    policy = GroupBandit(SPEC, groups=groups)
    assert set(policy.used_groups(draw(policy, rows=500)).sum(1).tolist()) == expected
    assert set(GroupBandit(SPEC[2:3]).used_groups(torch.ones(3, 1)).sum(1).tolist()) == {1}


def test_a_group_is_used_as_a_whole_and_the_others_are_the_identity() -> None:
    policy = GroupBandit(SPEC, groups=(1, 2))
    u = draw(policy, rows=500)
    used = policy.used_groups(u)
    for index, columns in enumerate(COLUMNS.values()):
        assert torch.equal(u[:, columns] != 0, used[:, index, None].expand(-1, len(columns)))


def test_frequencies_follow_the_weights() -> None:
    policy = GroupBandit(SPEC, groups=(1, 1))
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05])
    policy.weights.copy_(weights)
    frequencies = policy.used_groups(draw(policy)).float().mean(0)
    assert torch.allclose(frequencies, weights, atol=4 * (0.25 / ROWS) ** 0.5)
    # Of two groups, the second is drawn in proportion to the weights of the others.
    policy = GroupBandit(SPEC, groups=(2, 2))
    policy.weights.copy_(weights)
    expected = [
        w + sum(v * w / (1 - v) for j, v in enumerate(weights.tolist()) if j != i)
        for i, w in enumerate(weights.tolist())
    ]
    found = policy.used_groups(draw(policy)).float().mean(0)
    assert torch.allclose(found, torch.tensor(expected), atol=4 * (0.25 / ROWS) ** 0.5)


def test_draws_are_uniform_within_the_reach_of_each_side() -> None:
    policy = GroupBandit(SPEC, groups=(4, 4))
    reach = torch.tensor([[1.0, 1.0], [0.5, 0.5], [0.1, 0.7], [0.9, 0.02], [0.25, 1.0], [1.0, 0.3]])
    policy.set_reach(reach)
    fractions = unit_interval(draw(policy))
    expected = (torch.arange(ROWS) + 0.5) / ROWS
    for column, (below, above) in enumerate(reach.tolist()):
        one = fractions[:, column]
        assert -below - 1e-5 <= float(one.min()) < -0.97 * below
        assert 0.97 * above < float(one.max()) <= above + 1e-5
        # As often below as above, and uniform on each side: Kolmogorov's test.
        spread = torch.where(one > 0, one / above, one / below)
        assert float((((spread + 1) / 2).sort().values - expected).abs().max()) < 1.63 / ROWS**0.5


def test_uniform_draws_of_the_whole_range_are_normal() -> None:
    u = draw(GroupBandit(SPEC, groups=(4, 4)))
    assert torch.allclose(u.mean(0), torch.zeros(6), atol=0.03)
    assert torch.allclose(u.std(0), torch.ones(6), atol=0.03)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_weights_are_proportional_to_a_power_of_the_disagreement(power: float) -> None:
    added = [0.1, 0.2, 0.4, 0.0]
    policy = learned(GroupBandit(SPEC, power=power, floor=0.2), added, noise=0.01, updates=4)
    assert torch.allclose(policy.disagreement(), torch.tensor(added), atol=0.003)
    powers = torch.tensor(added) ** power
    assert torch.allclose(policy.weights, 0.8 * powers / powers.sum() + 0.05, atol=0.01)
    assert float(policy.weights.sum()) == pytest.approx(1)
    assert float(policy.weights[3]) == pytest.approx(0.05, abs=1e-3)


def test_equal_groups_stay_equal() -> None:
    """Whatever the number of images: the prior is what all groups add if they add the same."""
    policy = GroupBandit(SPEC)
    u = draw(policy, rows=5)
    policy.learn(policy.statistics(u, 0.3 * policy.used_groups(u).sum(1).float()))
    assert torch.allclose(policy.disagreement(), torch.full((4,), 0.3), atol=1e-5)
    assert torch.allclose(policy.weights, torch.full((4,), 0.25), atol=1e-5)


def test_it_is_least_squares_with_a_prior() -> None:
    policy, generator = GroupBandit(SPEC), torch.Generator().manual_seed(4)
    u = draw(policy, rows=30)
    scores = torch.rand(30, generator=generator)
    policy.learn(policy.statistics(u, scores))
    used = policy.used_groups(u).double()
    total = used.sum(1)
    common = (total @ scores.double()) / (total @ total)
    rows = torch.cat((used, math.sqrt(PRIOR) * torch.eye(4, dtype=torch.float64)))
    goals = torch.cat((scores.double(), math.sqrt(PRIOR) * common.expand(4)))
    expected = torch.linalg.lstsq(rows, goals).solution
    assert torch.allclose(policy.disagreement().double(), expected.clamp(min=0), atol=1e-5)


def test_without_a_disagreement_all_are_used_equally_often() -> None:
    for added in ([0.0] * 4, [-0.3] * 4):
        assert torch.equal(learned(GroupBandit(SPEC), added).weights, torch.full((4,), 0.25))
    assert torch.allclose(learned(GroupBandit(SPEC, power=0), [0.1, 0.9, 0, 0]).weights, torch.full((4,), 0.25))
    assert torch.equal(learned(GroupBandit(SPEC, floor=1.0), [0.1, 0.9, 0, 0]).weights, torch.full((4,), 0.25))


def test_a_group_that_lowers_the_disagreement_keeps_its_floor() -> None:
    policy = learned(GroupBandit(SPEC, floor=0.1), [0.4, -0.2, 0.0, 0.0], updates=3)
    assert float(policy.disagreement().min()) == 0
    assert policy.weights.tolist() == pytest.approx([0.925, 0.025, 0.025, 0.025], abs=2e-3)
    bare = learned(GroupBandit(SPEC, floor=0.0, groups=(2, 2)), [0.4, 0.0, 0.0, 0.0], updates=3)
    assert bool(bare.used_groups(draw(bare, rows=200))[:, 0].all())


def test_images_count_less_with_age() -> None:
    policy = learned(GroupBandit(SPEC, memory=3.0), [0.4, 0.1, 0.1, 0.1])
    moments, targets = policy.moments.clone(), policy.targets.clone()
    for _ in range(3):
        policy.learn([torch.zeros(4, 4), torch.zeros(4)])
    assert torch.allclose(policy.moments, 0.75**3 * moments)
    assert torch.allclose(policy.targets, 0.75**3 * targets)
    assert abs(0.75**3 - 1 / math.e) < 0.06
    learned(policy, [0.1, 0.1, 0.1, 0.4], updates=20)
    assert torch.allclose(policy.disagreement(), torch.tensor([0.1, 0.1, 0.1, 0.4]), atol=0.01)


def test_what_it_has_learned_is_saved() -> None:
    policy = learned(GroupBandit(SPEC), [0.1, 0.2, 0.4, 0.0], updates=2)
    policy.set_reach(torch.rand(6, 2) / 2 + 0.5)
    other = GroupBandit(SPEC)
    other.load_state_dict(policy.state_dict())
    assert policy.state_dict().keys() == {"reach", "weights", "moments", "targets"}
    for one in (other, copy.deepcopy(policy)):
        assert torch.equal(draw(one, rows=50), draw(policy, rows=50))
    continued = [learned(one, [0.4, 0.0, 0.0, 0.1]).weights for one in (policy, other)]
    assert torch.equal(*continued)


def test_processes_draw_the_rows_of_the_joined_batch() -> None:
    policy = learned(GroupBandit(SPEC), [0.1, 0.2, 0.4, 0.0])
    alone = policy.sample(torch.zeros(8, 1, 1, 1), torch.Generator().manual_seed(5))
    parts = []
    for rank in range(2):
        generator = ShardedGenerator(rank=rank, processes=2)
        generator.manual_seed(5)
        parts.append(policy.sample(torch.zeros(4, 1, 1, 1), generator))
    assert torch.equal(torch.cat(parts), alone)


@pytest.mark.parametrize(
    "reach",
    [torch.ones(5, 2), torch.ones(6), torch.zeros(6, 2), torch.full((6, 2), 1.1), torch.full((6, 2), torch.nan)],
)
def test_reaches_that_do_not_fit(reach: Tensor) -> None:
    policy = GroupBandit(SPEC)
    with pytest.raises(ValueError, match=r"reach: expected \(6, 2\) numbers in \(0, 1\]"):
        policy.set_reach(reach)
    assert torch.equal(policy.reach, torch.ones(6, 2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *(
            ({"groups": groups}, "expected the smallest and the largest number, at least 1")
            for groups in (2, (1,), (1, 2, 3), (0, 1), (3, 1), (1, 1.5), (None, 2), "12", (True, 2))
        ),
        ({"power": -1.0}, r"power=-1\.0: expected a number >= 0"),
        ({"power": math.nan}, "power=nan"),
        ({"floor": 1.5}, r"floor=1\.5: expected a number in \[0, 1\]"),
        ({"memory": 0.0}, r"memory=0\.0: expected a positive number"),
        ({"memory": math.inf}, "memory=inf"),
    ],
)
def test_settings_out_of_range(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GroupBandit(SPEC, **settings)


def test_settings_and_names_in_the_repr() -> None:
    names = "translation_x, translation_y, rotation, scale_x, scale_y, shear"
    assert repr(GroupBandit(SPEC)) == f"GroupBandit({names}; groups=(1, 3), power=2.0, floor=0.1, memory=20.0)"
    policy = GroupBandit(SPEC, groups=[np.int64(1), np.uint8(2)], power=np.float32(1), memory=np.int64(5))  # type: ignore[arg-type]
    assert repr(policy).endswith("groups=(1, 2), power=1.0, floor=0.1, memory=5.0)")


def test_its_spread_is_that_of_random_augmentation() -> None:
    """It never collapses, so nothing keeps it from that: no uniform draws are mixed in."""
    policy = learned(GroupBandit(SPEC), [1.0, 0.0, 0.0, 0.0])
    assert list(policy.parameters()) == []
    assert float(policy.relative_entropy()) == 0
    assert torch.equal(policy.relative_variance(), torch.ones(6))


class Brightness(nn.Module):
    """Predicts from the mean intensity alone."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            above = 20 * (images.mean((1, 2, 3)) - self.threshold)
            return torch.stack((above, -above), dim=1)


@pytest.mark.parametrize("schedule", [Alternating(), Threshold(max_steps=2, high=100.0)])
@pytest.mark.parametrize("searches", [False, True])
def test_it_finds_what_the_student_does_not_follow(schedule: Any, searches: bool) -> None:
    """The student sees brightness too early; neither network has a gradient, so a backward pass would fail."""
    if searches and isinstance(schedule, Threshold):
        return
    transform = Compose(Affine(translation=0.1, padding_mode="border"), Color(contrast=None, saturation=None, hue=None))
    images = 0.6 + 0.1 * torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    bandit = GroupBandit(transform.spec, groups=(1, 1))
    augmenter = HardAugmenter(
        teacher=Brightness(0.3),
        student=Brightness(0.6),
        transform=transform,
        policy=Search(transform.spec, proposal=bandit, candidates=2) if searches else bandit,
        schedule=schedule,
    )
    for _ in range(8):
        augmenter(images)
    assert bandit.names[-1] == "brightness"
    assert float(bandit.weights[-1]) > 0.85
    assert float(bandit.disagreement()[-1]) > 4 * float(bandit.disagreement()[:-1].max())


def test_scores_are_what_a_change_adds_where_the_teacher_keeps_its_prediction() -> None:
    transform = Compose(Affine(translation=0.1), Color(contrast=None, saturation=None, hue=None))
    images = 0.4 + 0.2 * torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    teacher, student, policy = Brightness(0.45), Brightness(0.4), GroupBandit(transform.spec)
    augmenter = HardAugmenter(
        teacher=teacher, student=student, transform=transform, policy=policy, schedule=Alternating(), seed=7
    )
    u = policy.sample(images, torch.Generator().manual_seed(7))
    augmenter(images)
    hard = transform.render(images, u)
    kept = teacher(hard).argmax(1) == teacher(images).argmax(1)
    assert 8 < int(kept.sum()) < 60

    def disagreement(shown: Tensor) -> Tensor:
        found: Tensor = augmenter.objective(
            teacher_logits=teacher(shown), student_logits=student(shown), reference=Reference(teacher(images))
        )
        return found

    scores = torch.where(kept, disagreement(hard) - disagreement(images), 0.0)
    used = policy.used_groups(u).float()
    assert torch.allclose(policy.targets, used.T @ scores, rtol=1e-4, atol=1e-5)
    assert torch.equal(policy.moments, used.T @ used)
