"""Training on generated images: from a folder, generated against the student, interrupted, and by two processes."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch import nn

from experiments import generate
from experiments.generation.generator import HardImageGenerator
from experiments.runs.experiment import Experiment
from experiments.train import run as train
from experiments.training.checkpoint import digest
from experiments.training.interrupts import Stop
from experiments.training.loop import progress_bar
from hard_aug.synthesis import Acceptance
from tests.experiments.test_engine_processes import ENVIRONMENT, launched
from tests.experiments.test_generate import config_of, models, overrides
from tests.helpers.stops import StopAt

__all__ = ["models"]  # a fixture


def mixed(models: Path, folder: Path, *more: str) -> dict[str, Any]:
    settings = ["students=[kd,generated]", "steps=8", "batch_size=16", *more]
    return train(config_of(models, models / "cache", *settings), folder, quiet=True, figures=False)


def accept_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept all images: a teacher of twenty steps accepts almost none of a model with random weights."""
    call = Acceptance.__call__

    def everything(self: Acceptance, images: Any, labels: Any) -> Any:
        result = call(self, images, labels)
        return replace(result, accepted=torch.ones_like(result.accepted))

    monkeypatch.setattr(Acceptance, "__call__", everything)


@pytest.mark.slow
def test_training_takes_a_folder_or_makes_one(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_all(monkeypatch)
    generate.run(config_of(models, models / "cache"), tmp_path / "made")
    folder = f"hard_images.folder={tmp_path}/made/images"
    fixed = mixed(models, tmp_path / "fixed", folder)
    assert set(fixed["students"]) == {"kd", "generated"}
    fresh = mixed(models, tmp_path / "fresh", "generation.images=20")
    assert fresh["students"]["generated"]["clean"] != fixed["students"]["generated"]["clean"]
    again = mixed(models, tmp_path / "again", folder)
    for result in (fixed, again):
        result["students"]["generated"].pop("seconds")
    assert again["students"]["generated"] == fixed["students"]["generated"]


#: Two epochs, after each of which there is a new generation.
REFRESHED = [
    "students=[kd,generated]", "hard_images.refresh.every=1", "generation.images=10", "steps=5", "batch_size=1750",
    "log_every=1", "checkpoint_every=100",
]  # fmt: skip


@pytest.mark.slow
def test_a_refresh_makes_a_generation_against_the_student(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_all(monkeypatch)
    made: list[tuple[str, int]] = []
    generate_ = HardImageGenerator._generate

    def recorded(self: HardImageGenerator, search: Any, student: nn.Module, indices: torch.Tensor) -> Any:
        made.append((digest(student), int(indices[0])))
        return generate_(self, search, student, indices)

    monkeypatch.setattr(HardImageGenerator, "_generate", recorded)
    train(config_of(models, models / "cache", *REFRESHED), tmp_path, quiet=True, figures=False)
    assert [number for _, number in made] == [
        0,
        0,
        10,
        10,
        20,
        20,
    ]  # a generation, and unguided images for the failure metrics
    against = list(dict.fromkeys(student for student, _ in made))
    finished = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["finished"]
    student = instantiate(config_of(models, models / "cache").student, size=32, channels=1, classes=10)
    for name in ("kd", "generated"):
        student.load_state_dict(finished[name]["model"])
        assert (against[0] == digest(student)) == (name == "kd")
    assert len(set(against)) == 3
    curves = (tmp_path / "curves" / "generated.csv").read_text()
    for name in ("judge_consistency", "saturated", "rms_change"):
        values = [line.split(",")[2] for line in curves.splitlines() if line.split(",")[1] == f"failure_metrics/{name}"]
        assert len(values) == 5
    assert len(set(values)) == 3  # `rms_change`: each generation has its own


@pytest.mark.slow
def test_stopped_after_a_refresh_it_ends_the_same(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_all(monkeypatch)
    config = config_of(models, models / "cache", *REFRESHED)
    splits = instantiate(config.data)

    def attempt(folder: Path, stop: Stop) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        with progress_bar(quiet=True) as progress:
            experiment = Experiment(config, splits, folder, progress, stop)
            for job in experiment.specs:
                experiment.train(job)
        finished: dict[str, Any] = experiment.state["finished"]
        return finished

    whole = attempt(tmp_path / "whole", Stop())
    for times in (7, 1):  # after the second step of `generated`, the end of its first epoch, and the fourth
        with pytest.raises(KeyboardInterrupt):
            attempt(tmp_path / "parts", StopAt(times))
    resumed = attempt(tmp_path / "parts", Stop())
    assert whole["generated"]["method"]["failure_metrics"] == resumed["generated"]["method"]["failure_metrics"] != {}
    for name in ("kd", "generated"):
        for key, value in whole[name]["model"].items():
            assert torch.equal(value, resumed[name]["model"][key]), (name, key)


@pytest.mark.slow
def test_two_processes_make_and_train_on_one_pool(models: Path, tmp_path: Path) -> None:
    settings = ["students=[kd,generated]", "hard_images.refresh.patience=1", "generation.images=40", "steps=4"]
    settings += ["batch_size=1750", "generation.acceptance.resize=null", "generation.judge=false", "device=cpu"]
    settings.append("student._target_=tests.helpers.engine_parts.PlainStudent")
    one = config_of(models, models / "cache", *settings)
    train(one, tmp_path / "one", quiet=True, figures=False)
    command = [*launched(), "experiments.train", "--config-name", "generate", f"hydra.run.dir={tmp_path}/two"]
    command += overrides(models, models / "cache", *settings)
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    ours, theirs = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["finished"]["generated"]
        for name in ("one", "two")
    )
    assert ours["method"]["step"] == theirs["method"]["step"] == 4
    for key, value in ours["model"].items():
        assert torch.allclose(value, theirs["model"][key], atol=1e-5), key


@pytest.mark.slow
def test_missing_parts_raise(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="students=\\[kd,generated\\]"):
        mixed(models, tmp_path / "alone", "students=[generated]")
    settings = ["steps=2", "students=[kd,generated]", "teacher.steps=2", f"teacher_cache={tmp_path}"]
    with initialize_config_module("experiments.conf", version_base="1.3"):
        plain = compose("train", settings)
    with pytest.raises(ValueError, match="use --config-name generate"):
        train(plain, tmp_path / "plain", quiet=True, figures=False)
