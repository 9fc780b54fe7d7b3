"""A run killed by SIGKILL at random times ends like an uninterrupted one; and the kill test detects differences."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tools.kill_test import command, differences, main, results, run_until

SHORT = ["steps=16", "teacher.steps=16", "checkpoint_every=4", "log_every=3", "eval_every=5"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_three_kills_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    assert main(["--kills", "3", "--seed", "3", "--folder", str(folder), *SHORT]) == 0, capsys.readouterr().out
    seen = json.loads((folder / "kill_test.json").read_text())
    assert len(seen["kills"]) == 3
    assert seen["runs"] >= 1
    assert seen["differences"] == []
    for name in ("reference", "killed_0"):
        (curves,) = (folder / name / "runs").glob("*/curves.csv")
        assert curves.read_text().count("policy/rotation_sd") == 6
        assert {Path(file).name for file in results(folder / name)} == {
            "metrics.json", "student.pt", "curves.csv", "tensorboard",
        }  # fmt: skip
    with pytest.raises(SystemExit):  # the folder exists
        main(["--kills", "1", "--folder", str(folder)])
    assert "use --folder=<a new one>" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_kill_of_a_sweep_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    found = main(["--sweep", "--kills", "1", "--seed", "5", "--folder", str(folder), *SHORT, "steps=6"])
    assert found == 0, capsys.readouterr().out
    seen = json.loads((folder / "kill_test.json").read_text())
    assert (len(seen["kills"]), seen["runs"], seen["differences"]) == (1, 1, [])
    for name in ("reference", "killed_0"):
        assert len(list((folder / name).rglob("metrics.json"))) == 2


def test_differences_are_detected() -> None:
    ours: dict[str, Any] = {
        "metrics.json": {"teacher": {"seconds": 1.0, "cached": False, "clean": 0.5}, "student": {"curve": [0.5]}},
        "student.pt": {"model": torch.arange(4.0), "history": [[1.0, float("nan")]]},
        "curves.csv": "step,name,value\n",
    }
    theirs = copy.deepcopy(ours)
    theirs["metrics.json"]["teacher"] |= {"seconds": 2.0, "cached": True}
    assert differences(ours, theirs) == []
    theirs["student.pt"]["model"][3] += 1e-6
    theirs["student.pt"]["history"].append([2.0])
    theirs["metrics.json"]["policy"] = {}
    theirs["metrics.json"]["student"]["curve"][0] = 0.4
    theirs["curves.csv"] = "step,name,value\n1,loss,0.5\n"
    theirs["checkpoint.pt"] = "left over"
    assert [found.split(":")[0] for found in differences(ours, theirs)] == [
        "/checkpoint.pt",
        "/metrics.json/policy",
        "/metrics.json/student/curve/0",
        "/student.pt/model",
        "/student.pt/history",
        "/curves.csv",
    ]


def test_what_a_kill_leaves_over_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "kd-seed0-0123456789"
    folder.mkdir(parents=True)
    for name in ("checkpoint.pt", "metrics.17.tmp", "train.log", "status.json"):
        (folder / name).touch()
    assert results(tmp_path) == {f"{folder.name}/{name}": "left over" for name in ("checkpoint.pt", "metrics.17.tmp")}


@pytest.mark.slow
def test_a_run_that_fails_without_being_killed_raises(tmp_path: Path) -> None:
    line = command(tmp_path, ["method=nobody"], sweep=False)
    with pytest.raises(RuntimeError, match=r"failed without being killed:[\s\S]*nobody"):
        run_until(line, None)
    assert not run_until(line, 0.0)


@pytest.mark.parametrize("wrong", [["--kills", "0"], ["--kills", "some"]])
def test_invalid_arguments_raise(tmp_path: Path, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*wrong, "--folder", str(tmp_path / "runs")])
    assert "--kills" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
