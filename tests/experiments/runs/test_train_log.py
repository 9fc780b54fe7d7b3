"""What is recorded while a student trains, and when."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.methods import Hard, Method
from experiments.runs.train_log import TrainLog
from hard_aug import HardAugmenter
from hard_aug.data import ImageSet
from hard_aug.transforms import Affine


class Counted(Method):
    """A method whose scalars count the calls."""

    network_evaluations = 3

    def __init__(self) -> None:
        self.count = 0

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

    def scalars(self) -> dict[str, float]:
        """Return 0, 0.1, 0.2, ..."""
        self.count += 1
        return {"teacher_consistency": (self.count - 1) / 10}


def setup(log_every: int, eval_every: int | None = None) -> Any:
    """Return what the log uses of a `Setup`: a configuration, evaluation and validation images."""
    evaluated: list[nn.Module] = []
    validation = ImageSet(torch.rand(20, 1, 12, 12), torch.zeros(20, dtype=torch.int64))
    return SimpleNamespace(
        config=SimpleNamespace(log_every=log_every, eval_every=eval_every, logger=["csv"], logger_settings={}),
        evaluate=lambda student: evaluated.append(student) or {"clean": len(evaluated) / 10},
        splits=SimpleNamespace(validation=validation),
        shape=(1, 12, 12),
    )


def log_of(folder: Path | None, steps: int, method: Method | None = None, **every: Any) -> TrainLog:
    return TrainLog(method or Counted(), nn.Linear(1, 1), setup(**every), folder, steps=steps, batch_size=8)


def logged(folder: Path, name: str = "loss") -> dict[int, float]:
    rows = [line.split(",") for line in (folder / "curves.csv").read_text().splitlines()[1:]]
    return {int(step): float(value) for step, key, value in rows if key == name}


def test_scalars_are_logged_at_their_steps_and_at_the_end(tmp_path: Path) -> None:
    """The training reports at steps of both kinds: 2, 3, 4, 6, 7."""
    log = log_of(tmp_path, 7, log_every=3, eval_every=2)
    for step in (2, 3, 4, 6, 7):
        log.update(step, step / 2, seconds=10.0 * step)
    log.close()
    assert logged(tmp_path) == {3: 1.5, 6: 3.0, 7: 3.5}
    points = log.record()["curve"]
    assert [point["step"] for point in points] == [2, 4, 6, 7]
    assert points[1] == {"step": 4, "evaluations": 4 * 8 * 3, "seconds": 40.0, "accuracy": {"clean": 0.2}}


def test_the_consistency_is_the_mean_over_the_second_half(tmp_path: Path) -> None:
    log = log_of(tmp_path, 6, log_every=1)
    assert log.record() == {}
    for step in range(1, 7):
        log.update(step, 0.0, 0.0)
    assert log.record() == {"teacher_consistency": pytest.approx((0.3 + 0.4 + 0.5) / 3)}


def test_without_a_folder_nothing_is_written_or_evaluated() -> None:
    log = log_of(None, 2, log_every=1, eval_every=1)
    log.update(1, 0.0, 0.0)
    log.update(2, 0.0, 0.0)
    log.close()
    assert set(log.record()) == {"teacher_consistency"}


def test_a_resumed_log_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    log = log_of(tmp_path, 8, log_every=2, eval_every=4)
    for step in (2, 4):
        log.update(step, 1.0, 0.0)
    state = log.state_dict()
    log.update(6, 1.0, 0.0)
    log.close()
    resumed = log_of(tmp_path, 8, log_every=2, eval_every=4)
    resumed.load_state_dict(state)
    for step in (6, 8):
        resumed.update(step, 2.0, 0.0)
    resumed.close()
    assert logged(tmp_path) == {2: 1.0, 4: 1.0, 6: 2.0, 8: 2.0}
    assert [point["step"] for point in resumed.record()["curve"]] == [4, 8]
    assert len(resumed.consistency) == 4


def test_the_learned_distribution_is_recorded(teacher: nn.Module, plain_student: nn.Module, tmp_path: Path) -> None:
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), seed=0)
    log = log_of(tmp_path, 2, Hard(augmenter, temperature=2.0), log_every=1)
    log.start()
    with torch.no_grad():
        augmenter.policy.mean[0] += 1  # type: ignore[index, operator]  # a parameter
    log.update(2, 1.0, 0.0)
    log.close()
    last = log.learned_distribution()
    assert last["translation_x"]["mean"] > 0.05
    assert last["translation_x"]["sd_pixels"] == 12 * last["translation_x"]["sd"]
    assert "sd_pixels" not in last["rotation"]
    assert logged(tmp_path, "policy/rotation_sd")[2] == pytest.approx(last["rotation"]["sd"])
    state = log.state_dict()
    assert log_of(None, 2, log_every=1).learned_distribution() == {}
    again = log_of(None, 2, Hard(augmenter, temperature=2.0), log_every=1)
    again.load_state_dict(state)
    assert again.learned_distribution() == last
