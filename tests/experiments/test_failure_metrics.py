"""Failure metrics of the augmented images of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.train import run
from tests.experiments.test_experiment_run import config_of


@pytest.mark.slow
def test_a_run_measures_failures(tmp_path: Path) -> None:
    asked = ["failure_metrics.judge=true", "failure_metrics.other_student=true"]
    settings = ["students=[kd,random,hard]", "tune_random=[0.5]"]
    found = run(config_of(tmp_path, *settings, *asked), tmp_path / "run", quiet=True, figures=False)
    assert list(found["failure_metrics"]) == ["random", "hard"]
    for numbers in found["failure_metrics"].values():
        assert set(numbers) >= {"teacher_consistency", "judge_consistency", "saturated", "diversity", "rms_change"}
        assert 0 <= numbers["judge_consistency"] <= 1
    narrow = run(
        config_of(tmp_path, *settings, *asked, "random_scale=0.5"), tmp_path / "half", quiet=True, figures=False
    )
    assert narrow["failure_metrics"]["random"]["rms_change"] < found["failure_metrics"]["random"]["rms_change"]
    kept = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["finished"]
    assert list(kept) == ["kd", "random", "hard", "random_x0.5", *(f"{n}_other_seed" for n in found["failure_metrics"])]
    others = [kept[name]["model"] for name in ("hard", "hard_other_seed")]
    assert not torch.equal(*(next(iter(model.values())) for model in others))
    again = run(config_of(tmp_path, *settings, *asked), tmp_path / "run", quiet=True, figures=False)
    assert again["failure_metrics"] == found["failure_metrics"]
    plain = run(config_of(tmp_path, *settings), tmp_path / "plain", quiet=True, figures=False)
    assert "failure_metrics" not in plain
    assert "failure_metrics" not in plain["config"]
    for row, values in plain["students"].items():  # the additional networks do not affect the students
        assert {**values, "seconds": 0} == {**found["students"][row], "seconds": 0}


def test_a_second_teacher_has_to_be_trained(tmp_path: Path) -> None:
    config = config_of(tmp_path, "students=[random]", "failure_metrics.judge=true", "teacher.steps=0")
    with pytest.raises(ValueError, match=r"teacher\.steps=0 trains none; .*failure_metrics\.judge=false"):
        run(config, tmp_path / "run", quiet=True)
