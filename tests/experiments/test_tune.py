"""Tuning: ranges and settings, a stopped or killed study, failing trials, and two processes on one study."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from optuna.trial import FixedTrial, TrialState

import experiments.runs.student
from experiments import tune
from experiments.configuration.settings import trial_settings

ROOT = Path(__file__).parents[2]
SPACE = "+tune.space.temperature={low: 1.0, high: 4.0}"


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose("tune", list(overrides))


def test_nested_and_dotted_keys_are_ranges() -> None:
    low_high, choices = {"low": 0.1, "high": 1, "log": True}, {"choices": [1, 2]}
    space = {"augmenter": {"learning_rate": low_high, "schedule": {"every": choices}}, "trainer.ema": low_high}
    assert tune.ranges(space) == {
        "augmenter.learning_rate": low_high,
        "augmenter.schedule.every": choices,
        "trainer.ema": low_high,
    }


def test_settings_are_overrides() -> None:
    space = {
        "learning_rate": {"low": 1e-5, "high": 0.1, "log": True},
        "steps": {"low": 1, "high": 9, "step": 2},
        "trainer.ema": {"low": 0, "high": 1, "step": 0.25},
        "teacher": {"choices": ["conv", "flat"]},
        "eval_every": {"choices": [None, 5]},
        "failure_metrics.judge": {"choices": [True, False]},
    }
    values = {"learning_rate": 2e-5, "steps": 3, "trainer.ema": 0.5, "teacher": "flat"}
    trial = FixedTrial({**values, "eval_every": None, "failure_metrics.judge": True})
    settings = tune.draw(trial, space)
    assert settings == [
        "learning_rate=2e-05",
        "steps=3",
        "trainer.ema=0.5",
        "teacher=flat",
        "eval_every=null",
        "failure_metrics.judge=true",
    ]
    config = composed(*settings)
    assert (config.learning_rate, config.steps, config.eval_every) == (2e-5, 3, None)
    assert trial.distributions["steps"] == optuna.distributions.IntDistribution(1, 9, step=2)


@pytest.mark.parametrize(
    "node", [{"low": 2.0, "high": 1.0}, {"low": 1.0}, {"low": 1, "high": 2, "by": 3}, {"choices": []}, {}, 3, [1, 2]]
)
def test_invalid_ranges_name_the_key(node: Any) -> None:
    with pytest.raises(ValueError, match=r"tune\.space\.temperature=.*expected \{low, high\} with log or step, or"):
        tune.draw(optuna.create_study().ask(), tune.ranges({"temperature": node}))


class FakeRuns:
    """In place of `experiments.runs.student.run`: the accuracy is a quarter of the temperature."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folders: list[str] = []
        self.temperatures: list[float] = []
        self.errors: dict[int, BaseException] = {}  # by number of the run
        monkeypatch.setattr(experiments.runs.student, "run", self.run)

    def run(self, config: DictConfig, folder: Path, *, base: DictConfig, settings: list[str]) -> dict[str, Any]:
        self.folders.append(folder.name)
        self.temperatures.append(config.temperature)
        if error := self.errors.pop(len(self.folders) - 1, None):
            raise error
        assert settings == [f"temperature={config.temperature}"]
        assert base.temperature == 2.0
        validation = {"clean": 0.5, "main": config.temperature / 4}
        return {"method": config.method.name, "student": {"validation": validation}}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> FakeRuns:
    monkeypatch.setattr(tune, "compose_with", lambda settings: composed(SPACE, *settings))
    return FakeRuns(monkeypatch)


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_stopped_study_resumes_its_trial_and_draws_others(tmp_path: Path, runs: FakeRuns) -> None:
    runs.errors = {1: KeyboardInterrupt(), 3: FloatingPointError("the loss is nan")}
    config = composed(SPACE, "tune.trials=4")
    with pytest.raises(KeyboardInterrupt):
        tune.tune(config, tmp_path)
    study = tune.tune(config, tmp_path)
    assert states(study) == ["COMPLETE", "FAIL", "COMPLETE", "FAIL", "COMPLETE"]
    assert len(tune.finished(study)) == 4  # the stopped trial was run again
    assert runs.folders[1] == runs.folders[2]
    assert len(set(runs.temperatures)) == 4
    complete = [runs.temperatures[number] for number in (0, 2, 4)]
    assert [trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))] == [t / 4 for t in complete]
    assert study.best_trial.user_attrs == {"method": "hard", "settings": [f"temperature={max(complete)}"]}
    tune.tune(config, tmp_path)
    assert len(runs.folders) == 5  # nothing is missing
    tune.tune(composed(SPACE, "tune.trials=5"), tmp_path)
    assert len(set(runs.temperatures)) == 5


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_killed_trial_is_run_again(tmp_path: Path, runs: FakeRuns) -> None:
    config, space = composed(SPACE, "tune.trials=2"), {"temperature": {"low": 1.0, "high": 4.0}}
    study = tune.open_study(config, tmp_path, space)
    with pytest.warns(UserWarning, match="Heartbeat"):
        killed = study.ask()
    (setting,) = tune.draw(killed, space)
    study._storage.record_heartbeat(killed._trial_id)  # type: ignore[attr-defined]
    expire_heartbeats(tmp_path)
    study = tune.tune(config, tmp_path)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert setting == f"temperature={runs.temperatures[0]}"
    assert len(tune.finished(study)) == 2


def expire_heartbeats(folder: Path) -> None:
    """Set the signs of life of all trials long before the grace period."""
    with sqlite3.connect(folder / "study.db") as database:
        database.execute("update trial_heartbeats set heartbeat = '2000-01-01 00:00:00'")
    database.close()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_another_space_or_metric_needs_another_study(tmp_path: Path, runs: FakeRuns) -> None:
    tune.tune(composed(SPACE, "tune.trials=1", "select_on=sum"), tmp_path)
    assert tune.open_study(
        composed("select_on=sum"), tmp_path, {"temperature": {"low": 1.0, "high": 4.0}}
    ).best_value == (pytest.approx((0.5 + runs.temperatures[0] / 4) / 2))
    for other in (composed(SPACE), composed("+tune.space.temperature={low: 1.0, high: 5.0}", "select_on=sum")):
        with pytest.raises(ValueError, match=r"tune\.study=.* got .*another name"):
            tune.tune(other, tmp_path)
    with pytest.raises(ValueError, match="space is empty: expected ranges"):
        tune.tune(composed(), tmp_path)
    with pytest.raises(ValueError, match="steps"):
        tune.tune(composed("+tune.space.steps={choices: [0]}"), tmp_path)  # before any trial


def command(folder: Path, *overrides: str) -> list[str]:
    small = ["method=kd", "steps=40", "batch_size=32", "teacher.steps=2", "teacher.batch_size=32", "log_every=2"]
    place = [f"hydra.sweep.dir={folder}/tune", f"teacher_cache={folder}/teachers", "checkpoint_every=2"]
    words = [SPACE, "tune.trials=4", "threads=1", "device=cpu", "logger=[csv]"]
    return [sys.executable, "-m", "experiments.tune", *words, *place, *small, *overrides]


def start(words: list[str], log: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        return subprocess.Popen(words, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True)


def until(reached: Callable[[], bool], process: subprocess.Popen[str], log: Path) -> None:
    limit = time.monotonic() + 300
    while not reached():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_study_that_was_killed_and_stopped_is_finished_by_two_processes(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def training(number: int) -> bool:
        """Whether trial `number` is in the middle of its training."""
        folders = list(tmp_path.glob("tune/*/default/trial-*"))
        begun = [one for one in folders if not (one / "metrics.json").exists() and (one / "checkpoint.pt").exists()]
        return len(begun) == 1 and len(folders) == number + 1

    process = start(command(tmp_path), log)
    until(lambda: training(1), process, log)
    process.kill()
    process.wait()
    (folder,) = tmp_path.glob("tune/*/default")
    expire_heartbeats(folder)

    process = start(command(tmp_path), log)
    until(lambda: training(2), process, log)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=300) == 130, log.read_text()
    assert "student kd: resumed from step" in log.read_text()

    process = start(
        command(tmp_path, "hydra.mode=MULTIRUN", "tune.worker=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        log,
    )
    assert process.wait(timeout=600) == 0, log.read_text()
    records = [json.loads(path.read_text()) for path in folder.glob("trial-*/metrics.json")]
    assert len({tuple(record["settings"]) for record in records}) == len(records) == 4
    best = max(records, key=lambda record: record["student"]["validation"]["main"])
    chosen = yaml.safe_load((folder / "settings.yaml").read_text())
    assert list(chosen) == ["kd"]
    assert chosen["kd"]["trials"] == 4
    accuracies = {tuple(one["settings"]): one["student"]["validation"]["main"] for one in records}
    assert accuracies[tuple(chosen["kd"]["settings"])] == best["student"]["validation"]["main"]
    config = composed("method=kd", f"settings_from={folder}/settings.yaml")
    assert trial_settings(config) == (chosen["kd"]["settings"], 4)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_folder_with_any_characters_and_a_damaged_study(tmp_path: Path) -> None:
    """A question mark begins the options of a database's address, a brace a placeholder."""
    folder, space = tmp_path / "a?b=c #%20[1]&$x$ é {y}", {"temperature": {"low": 1.0, "high": 4.0}}
    folder.mkdir()
    tune.open_study(composed(), folder, space)
    assert [path.name for path in folder.iterdir()] == ["study.db"]
    assert list(tmp_path.iterdir()) == [folder]
    (folder / "study.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ValueError, match=r"study\.db is damaged; remove it"):
        tune.open_study(composed(), folder, space)
