"""Rank correlations of scores by the teacher alone with the accuracies of students."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import teacher_scores
from experiments.teacher_scores import correlations


def row(task: str, accuracy: float, **scores: float) -> dict[str, Any]:
    return {"task": task, "accuracy": accuracy, **scores}


def test_the_rank_correlation_of_each_score_by_task() -> None:
    rows = [row("a", step, stddev_ratio=-(step**3), spread=step % 2, kept=step) for step in range(6)]
    rows += [row("b", step, stddev_ratio=step, spread=0.0, kept=step) for step in range(4)]  # too few
    (found,) = correlations(rows)
    assert (found["task"], found["n"]) == ("a", 6)
    assert found["stddev_ratio"] == -1
    assert found["kept"] == 1
    assert found["spread"] == pytest.approx(0.293, abs=1e-3)


def test_a_folder_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        teacher_scores.main([str(tmp_path)])
    assert "no task has 5 runs of random augmentation with seed 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        teacher_scores.main([str(tmp_path / "none")])
    assert "no such folder" in capsys.readouterr().err
