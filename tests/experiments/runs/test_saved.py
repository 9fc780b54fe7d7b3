"""A finished run is loaded as it was: student, teacher and augmenter give the recorded numbers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.runs.saved import load_run
from experiments.runs.student import run
from experiments.training import checkpoint
from hard_aug.viz import PolicyHistory
from tests.helpers.engine_parts import small_config


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The folders and records of a run with `hard`, whose policy has moved, and one with `kd`."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    for method in ("hard", "kd"):
        often = ["augmenter.schedule.every=1", "learning_rate=0.01", "student=conv"]
        config = small_config(folder, f"method={method}", *often)
        made[method] = folder / method, run(config, folder / method, quiet=True)
    return made


def test_the_networks_have_the_recorded_accuracy(runs: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    for folder, record in runs.values():
        saved = load_run(folder)
        assert saved.record["student"]["accuracy"] == record["student"]["accuracy"]
        student = saved.student()
        assert not student.training
        assert saved.setup.evaluate(student) == record["student"]["accuracy"]
        assert saved.setup.evaluate(saved.teacher) == record["teacher"]["accuracy"]
        assert list(saved.task.sets(saved.splits.test)) == record["sets"]
        assert saved.config.method.name == record["method"]


def test_the_augmenter_has_the_recorded_distribution(runs: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    folder, record = runs["hard"]
    saved = load_run(folder)
    augmenter = saved.augmenter()
    history = PolicyHistory(augmenter.transform.spec)
    history.record(0, augmenter, None)
    for name, values in history.last().items():
        for key, value in values.items():
            assert record["policy"][name][key] == pytest.approx(value), (name, key)
    images, labels = saved.splits.test.images[:8], saved.splits.test.labels[:8]
    first, second = augmenter(images, labels).images, saved.augmenter()(images, labels).images
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="method=kd has no augmenter; expected hard"):
        load_run(runs["kd"][0]).augmenter()


def test_a_lost_teacher_is_trained_again(runs: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path) -> None:
    folder, record = runs["kd"]
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    text = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(text.replace(str(folder.parent / "teachers"), str(tmp_path / "teachers")))
    saved = load_run(moved)
    assert list((tmp_path / "teachers").glob("*.pt"))
    assert saved.setup.evaluate(saved.teacher) == record["teacher"]["accuracy"]


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "student.pt"])
def test_a_damaged_file_of_a_run_is_named(
    name: str, runs: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    shutil.copytree(runs["hard"][0], tmp_path / "run")
    path = tmp_path / "run" / name
    whole = path.read_bytes()
    bad = [b"", whole[: len(whole) // 2] + b"\xff" + whole[len(whole) // 2 + 1 :], b"[1, 2"]
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path} (is|has|can't) .*(remove it|resume=false)") as raised:
            load_run(tmp_path / "run").augmenter()
        assert "\n" not in str(raised.value)


def test_a_student_of_other_code_is_named(runs: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path) -> None:
    shutil.copytree(runs["hard"][0], tmp_path / "run")
    path = tmp_path / "run" / "student.pt"
    state = checkpoint.read(path)
    checkpoint.save(path, {**state, "model": {"w": torch.ones(1)}})
    with pytest.raises(ValueError, match=rf"{path} has no weights of this \w+.*resume=false"):
        load_run(tmp_path / "run").student()
    checkpoint.save(path, {**state, "method": {**state["method"], "calls": None}})
    with pytest.raises(ValueError, match=rf"{path} has no state of this augmenter .*resume=false"):
        load_run(tmp_path / "run").augmenter()


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "student.pt"])
def test_an_unfinished_run_raises(name: str, runs: dict[str, tuple[Path, dict[str, Any]]], tmp_path: Path) -> None:
    shutil.copytree(runs["kd"][0], tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no .*{name}: expected the folder of a finished run"):
        load_run(tmp_path / "run")
