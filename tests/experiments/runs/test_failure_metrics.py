"""Failure metrics of the views of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.runs.student import run
from tests.helpers.engine_parts import small_config

ASKED = ("failure_metrics.judge=true", "failure_metrics.other_student=true")


def test_narrower_views_change_the_images_less(tmp_path: Path, cache: Path) -> None:
    found = {}
    for scale in (0.5, 1.0):
        config = small_config(cache, "method=random", f"method.scale={scale}", *ASKED)
        found[scale] = run(config, tmp_path / str(scale), quiet=True)["failure_metrics"]
        assert not (tmp_path / str(scale) / "other.pt").exists()
    keys = {"teacher_consistency", "judge_consistency", "student_error_overlap", "saturated", "diversity", "rms_change"}
    for numbers in found.values():
        assert len(keys & set(numbers)) >= 5, numbers
        assert 0 <= numbers["judge_consistency"] <= 1
        assert json.loads(json.dumps(numbers)) == numbers
    assert 0 < found[0.5]["rms_change"] < found[1.0]["rms_change"]


def test_methods_without_views_have_none(tmp_path: Path, cache: Path) -> None:
    found = run(small_config(cache, "method=kd", "failure_metrics.judge=true"), tmp_path, quiet=True)
    assert "failure_metrics" not in found


@pytest.mark.slow
def test_the_further_networks_change_nothing_else(tmp_path: Path, cache: Path) -> None:
    plain = run(small_config(cache), tmp_path / "plain", quiet=True)
    assert "failure_metrics" not in plain
    asked = run(small_config(cache, *ASKED), tmp_path / "asked", quiet=True)
    assert asked["failure_metrics"]["rms_change"] > 0
    assert {**plain["student"], "seconds": 0} == {**asked["student"], "seconds": 0}
    assert plain["policy"] == asked["policy"]
    assert plain["group"] != asked["group"]
    states = [torch.load(tmp_path / name / "student.pt", weights_only=True) for name in ("plain", "asked")]
    assert all(torch.equal(value, states[1]["model"][key]) for key, value in states[0]["model"].items())
    assert torch.equal(states[0]["method"]["generator"], states[1]["method"]["generator"])


def test_a_judge_has_to_be_trained(tmp_path: Path) -> None:
    config = small_config(tmp_path, "method=random", "failure_metrics.judge=true", "teacher.steps=0")
    with pytest.raises(ValueError, match=r"a judge is a second teacher, .*failure_metrics\.judge=false"):
        run(config, tmp_path / "run", quiet=True)
