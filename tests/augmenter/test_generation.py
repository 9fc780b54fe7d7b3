"""One call: batches of the smallest sizes, and dtypes of their parts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hard_aug import Exploration, HardAugmenter
from hard_aug.objectives import Constraint, ResponseChange
from hard_aug.policies import Conditional, Search
from hard_aug.schedules import Alternating, Joint, Schedule, Threshold
from hard_aug.transforms import Affine, PatchMix

SPEC = Affine().spec
#: Settings that take a share or a fraction of the batch, and parts whose statistics are over the batch.
SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "all hard": dict,
    "a quarter": lambda: {"hard_fraction": 0.25},
    "a hundredth": lambda: {"hard_fraction": 0.01},
    "warm-up": lambda: {"warmup_calls": 1},
    "uniform draws": lambda: {"exploration": Exploration(min_uniform_fraction=0.5)},
    "constraint": lambda: {"invariance": Constraint()},
    "conditional": lambda: {"policy": Conditional(SPEC, channels=1, width=4)},
    "mix": lambda: {"transform": PatchMix(image_size=8, patch_size=4)},
    "search": lambda: {"policy": Search(SPEC, candidates=2, steps=1)},
    "clean student": lambda: {"objective": ResponseChange()},
}
SCHEDULES: dict[str, Schedule] = {
    "alternating": Alternating(),
    "alternating, part": Alternating(fraction=0.1, every=2, steps=2),
    "joint, part": Joint(fraction=0.5),
    "threshold, part": Threshold(fraction=0.1, max_steps=2),
}
#: Settings that cannot be combined with a schedule, whatever the batch.
UNSUITABLE = {Joint: ("search", "clean student"), Threshold: ("search", "clean student")}


def networks(kind: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(72, 5))
    if kind == "of images":
        student = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(72, 5))
    else:
        student = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 5))
    return teacher.eval(), student


def has_single(batch_norm: str, rows: int, hard: int) -> bool:
    """Whether the student's BatchNorm, of vectors, gets a single row of one view."""
    views = {"shared": [rows + hard], "frozen": [rows], "split": [rows, hard or rows]}
    return 1 in views[batch_norm]


@pytest.mark.parametrize("kind", ["of images", "of vectors"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_smallest_batches(name: str, kind: str) -> None:
    """The last one of an epoch: a finite loss and a sound policy, or an error that names the setting."""
    refused = 0
    for (label, schedule), batch_norm, rows in itertools.product(
        SCHEDULES.items(), ("shared", "frozen", "split"), range(4)
    ):
        teacher, student = networks(kind)
        settings = {"transform": Affine(), "schedule": schedule, "batch_norm": batch_norm, **SETTINGS[name]()}
        if name in UNSUITABLE.get(type(schedule), ()):
            with pytest.raises(ValueError, match=r"use schedule=Alternating\(\)"):
                HardAugmenter(teacher=teacher, student=student, **settings)
            continue
        augmenter = HardAugmenter(teacher=teacher, student=student, **settings)
        images = torch.rand(rows, 1, 8, 8, generator=torch.Generator().manual_seed(rows))
        for _ in range(2):
            hard = augmenter(images)
            if kind == "of vectors" and has_single(batch_norm, rows, hard.num_hard):
                with pytest.raises(
                    ValueError, match=f"batch_norm='{batch_norm}' with {rows} clean and .*drop_last=True"
                ):
                    hard.loss()
                refused += 1
                continue
            loss = hard.loss()
            loss.backward()
            assert bool(loss.isfinite()), (label, batch_norm, rows)
        state = augmenter.state_dict()
        assert augmenter.dropped_steps == 0, (label, batch_norm, rows)
        values = [*state["policy"].values(), *student.state_dict().values(), state["uniform_fraction"]]
        assert all(bool(value.isfinite().all()) for value in values), (label, batch_norm, rows)
    assert bool(refused) == (kind == "of vectors")


@pytest.mark.parametrize(
    ("settings", "rows", "words"),
    [
        (
            {"batch_norm": "split", "hard_fraction": 0.25},
            4,
            "larger batches, or batch_norm='shared', or a larger hard_f",
        ),
        ({"batch_norm": "split"}, 1, "with 1 clean and 1 hard images: .*, or batch_norm='shared'$"),
        ({"batch_norm": "frozen"}, 1, "batch_norm='frozen' with 1 clean and 1 hard .*, or batch_norm='shared'$"),
        (
            {"warmup_calls": 1},
            1,
            "batch_norm='shared' with 1 clean and 0 hard .* use drop_last=True .* larger batches$",
        ),
    ],
)
def test_what_helps_against_single_images(settings: dict[str, Any], rows: int, words: str) -> None:
    teacher, student = networks("of vectors")
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), **settings)
    hard = augmenter(torch.rand(rows, 1, 8, 8))
    with pytest.raises(ValueError, match=words):
        hard.loss()


def test_an_empty_batch_leaves_the_statistics_of_the_student() -> None:
    teacher, student = networks("of images")
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine())
    before = student[1].running_mean.clone(), student[1].running_var.clone()
    loss = augmenter(torch.rand(0, 1, 8, 8)).loss()
    loss.backward()
    assert float(loss.detach()) == 0
    assert torch.equal(student[1].running_mean, before[0])
    assert torch.equal(student[1].running_var, before[1])
