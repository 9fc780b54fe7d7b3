"""Numbers that say how the views of a run fail."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.train import run
from tests.test_experiment_run import config_of


def test_a_run_says_how_its_views_fail(tmp_path: Path) -> None:
    asked = ["detectors.judge=true", "detectors.other_student=true"]
    settings = ["students=[kd,random,hard]", "tune_random=[0.5]"]
    found = run(config_of(tmp_path, *settings, *asked), tmp_path / "run", quiet=True, pictures=False)
    assert list(found["detectors"]) == ["random", "hard"]
    for numbers in found["detectors"].values():
        assert set(numbers) >= {"teacher_keeps", "judge_keeps", "saturated", "diversity", "moved"}
        assert 0 <= numbers["judge_keeps"] <= 1
    narrow = run(
        config_of(tmp_path, *settings, *asked, "random_scale=0.5"), tmp_path / "half", quiet=True, pictures=False
    )
    assert narrow["detectors"]["random"]["moved"] < found["detectors"]["random"]["moved"]
    kept = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["finished"]
    assert list(kept) == ["kd", "random", "hard", "random_x0.5", *(f"{n}_other_seed" for n in found["detectors"])]
    others = [kept[name]["model"] for name in ("hard", "hard_other_seed")]
    assert not torch.equal(*(next(iter(model.values())) for model in others))
    again = run(config_of(tmp_path, *settings, *asked), tmp_path / "run", quiet=True, pictures=False)
    assert again["detectors"] == found["detectors"]
    plain = run(config_of(tmp_path, *settings), tmp_path / "plain", quiet=True, pictures=False)
    assert "detectors" not in plain
    assert "detectors" not in plain["config"]
    for row, values in plain["students"].items():  # networks that only look on change nothing
        assert {**values, "seconds": 0} == {**found["students"][row], "seconds": 0}


def test_a_second_teacher_has_to_be_trained(tmp_path: Path) -> None:
    config = config_of(tmp_path, "students=[random]", "detectors.judge=true", "teacher.steps=0")
    with pytest.raises(ValueError, match=r"teacher\.steps=0 trains none; .*detectors\.judge=false"):
        run(config, tmp_path / "run", quiet=True)
