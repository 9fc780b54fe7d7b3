"""Generations during a training, on a search whose results are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.generation.generations import Generations
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from hard_aug.data import HardImages
from tests.helpers.hard_parts import generation_of, saved
from tests.helpers.stops import StopAt


class Search:
    """Images whose seeds are their indices; every second one is rejected."""

    settings = SimpleNamespace(batch_size=4, images=6)

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, student: nn.Module, indices: Tensor) -> tuple[HardImages, dict[str, float]]:
        self.batches.append(indices.tolist())
        made = generation_of(0, rows=len(indices))
        made.seeds[:], made.accepted[:] = indices, indices % 2 == 0
        return made, {"seconds": 0.5 * len(indices), "total": 7 * len(indices)}

    def failure_metrics(
        self, student: nn.Module, indices: Tensor, hard: HardImages, **networks: Any
    ) -> dict[str, float]:
        assert hard.seeds.tolist() == indices.tolist()
        return {"rms_change": float(indices[0])}


def made(*, first: int = 0, stop: Stop | None = None) -> Generations:
    search: Any = Search()
    return Generations(search, first, Progress(quiet=True), stop or Stop())


def test_each_generation_has_its_own_indices() -> None:
    generations = made()
    assert generations.failure_metrics() == {}
    found = [generations(nn.Linear(1, 1)).seeds.tolist() for _ in range(2)]
    assert found == [list(range(6)), list(range(6, 12))]
    assert generations.generator.batches == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9], [10, 11]]
    assert generations.metrics == [{"rms_change": 0.0}, {"rms_change": 6.0}]
    assert generations.failure_metrics() == {
        "rms_change": 0.0,  # of the first
        "accepted": 0.5,
        "evaluations_per_image": 7.0,
        "seconds_per_image": 0.5,
        "generation_seconds": 6.0,
    }
    again = made()
    again.load_state_dict(saved(generations.state_dict()))
    assert again(nn.Linear(1, 1)).seeds.tolist() == list(range(12, 18))
    assert again.failure_metrics()["generation_seconds"] == 9.0
    assert made(first=1)(nn.Linear(1, 1)).seeds.tolist() == list(range(6, 12))


def test_a_stopped_generation_leaves_no_trace() -> None:
    generations = made(stop=StopAt(1))
    before = saved(generations.state_dict())
    with pytest.raises(KeyboardInterrupt):
        generations(nn.Linear(1, 1))
    assert generations.state_dict() == before


def test_the_student_stays_in_training_mode() -> None:
    student = nn.Sequential(nn.Linear(1, 1), nn.Dropout()).train()
    made()(student)
    assert student.training
    assert torch.is_grad_enabled()
