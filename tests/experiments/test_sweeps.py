"""Sweeps: killed and resumed, with several launchers, with a failing run."""

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

import pytest
from hydra import compose, initialize_config_module
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from experiments.configuration.run import run_identity
from experiments.runs.optuna_resume import study_name, unsupported_reason
from experiments.runs.status import read
from experiments.runs.sweeps import check_sweep_metric, config_hash, finished, run_name, sweep_metric

CONF = Path(__file__).parents[2] / "experiments" / "conf"
ROOT = Path(__file__).parents[2]


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose("train", list(overrides), return_hydra_config=hydra)


def command(folder: Path, *overrides: str, steps: int = 6) -> list[str]:
    small = [f"steps={steps}", "batch_size=32", "teacher.steps=2", "log_every=2", "checkpoint_every=2", "threads=1"]
    place = [f"hydra.sweep.dir={folder}/sweep", f"teacher_cache={folder}/teachers", "students=[kd]"]
    return [sys.executable, "-m", "experiments.train", *place, *small, *overrides]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment(), text=True, capture_output=True, timeout=400, check=False)


def kill_when(words: list[str], reached: Callable[[], bool], log: Path) -> None:
    """Start the command and kill it by SIGKILL as soon as the condition holds."""
    with log.open("w") as output:
        process = subprocess.Popen(words, env=environment(), stdout=output, stderr=subprocess.STDOUT)
    try:
        limit = time.monotonic() + 400
        while not reached():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def states(folder: Path) -> list[str]:
    found = [read(path.parent) for path in sorted((folder / "sweep").glob("*/status.json"))]
    return sorted(status["state"] for status in found if status is not None)


@pytest.mark.slow
def test_a_killed_sweep_resumes_and_continues_after_a_failing_run(tmp_path: Path) -> None:
    """Killed in its second run and resumed with two processes; the batch size 99999 exceeds the data."""
    words = [*command(tmp_path, steps=30), "hydra.mode=MULTIRUN", "batch_size=16,32,99999"]
    kill_when(words, lambda: states(tmp_path) == ["finished", "running"], tmp_path / "log")
    (done,) = (tmp_path / "sweep").glob("*/metrics.json")
    before = done.stat().st_mtime_ns, done.read_bytes()

    again = run([*words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])
    assert again.returncode == 1, again.stdout + again.stderr
    assert (done.stat().st_mtime_ns, done.read_bytes()) == before
    assert states(tmp_path) == ["failed", "finished", "finished"]
    assert again.stdout.count("already finished") == 1
    assert "batch_size=99999" in again.stdout + again.stderr
    (failed,) = [path for path in (tmp_path / "sweep").glob("*batch_size=99999*")]
    status = read(failed)
    assert status is not None
    assert status["error"]["type"] == "ValueError"
    assert "batch_size=99999: expected 1 to" in status["error"]["message"]
    assert "Traceback" in (failed / "train.log").read_text()

    report = run([sys.executable, "-m", "experiments.report", str(tmp_path / "sweep"), "--markdown"])
    assert report.returncode == 0, report.stderr
    assert "1 run without results" in report.stdout
    assert "failed" in report.stdout
    assert report.stdout.count("| kd |") == 4  # accuracy and costs of each


def trials(folder: Path) -> list[tuple[int, str, float | None]]:
    path = folder / "sweep" / "optuna.db"
    if not path.is_file():
        return []
    with sqlite3.connect(path) as database:
        return database.execute(
            "select number, state, value from trials left join trial_values using (trial_id) order by number"
        ).fetchall()


@pytest.mark.slow
def test_a_killed_study_resumes_and_contains_each_trial_once(tmp_path: Path) -> None:
    """One trial fails: the study continues, and the command exits with 1."""
    words = [word for word in command(tmp_path, steps=30) if word != "batch_size=32"]
    words += ["sweep=optuna", "batch_size=choice(32,99999)", "temperature=interval(1,4)"]
    words += ["hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=4", "hydra.sweeper.n_trials=3"]
    kill_when(words, lambda: "running" in states(tmp_path), tmp_path / "log")
    begun = {path.name for path in (tmp_path / "sweep").glob("*=*")}
    assert [state for _, state, _ in trials(tmp_path)][-1] == "RUNNING"

    again = run(words)
    assert again.returncode == 1, again.stdout + again.stderr
    kept = trials(tmp_path)
    assert [number for number, _, _ in kept] == [0, 1, 2], again.stdout
    assert sorted(state for _, state, _ in kept) == ["COMPLETE", "COMPLETE", "FAIL"]
    folders = list((tmp_path / "sweep").glob("*=*"))
    assert len(folders) == 3
    assert begun <= {path.name for path in folders}
    measured = [json.loads(path.read_text())["students"]["kd"] for path in (tmp_path / "sweep").glob("*/metrics.json")]
    assert sorted(row["validation"] for row in measured) == sorted(value for _, _, value in kept if value is not None)


def test_the_hash_covers_what_the_outcome_depends_on() -> None:
    base = config_hash(composed())
    free = [
        "threads=7",
        "device=cpu",
        "resume=false",
        "log_every=3",
        "sweep_metric.set=shifted",
        "teacher_cache=elsewhere",
    ]
    assert config_hash(composed(*free)) == base
    assert config_hash(composed("sweep=seeds", hydra=True)) == base
    others = [config_hash(composed(one)) for one in ("seed=1", "steps=3001", "students=[kd]", "task=rotation")]
    assert len({base, *others}) == 5


def test_interpolations_are_hashed_by_value() -> None:
    assert config_hash(composed("test_shift=4")) != config_hash(composed("test_shift=4", "teacher.train_shift=3"))
    assert config_hash(composed("test_shift=4")) == config_hash(composed("test_shift=4", "teacher.train_shift=4"))


@pytest.mark.parametrize(
    "overrides",
    [
        "",
        "seed=0,steps=5",
        "hard_images.folder=../../elsewhere/images",
        "students=[kd,hard],augmenter.policy={a: 1}",
        "data.root='a b;$(c)|é\u2028\0'",
        "key=" + "x" * 400,
        ",".join(f"augmenter.transform.value{i}=0.123456789" for i in range(60)),
        "...",
        "-rf",
    ],
)
def test_run_names_are_safe_and_short(tmp_path: Path, overrides: str) -> None:
    name = run_name(overrides, "0123456789")
    assert name.endswith("0123456789")
    assert len(name.encode()) <= 111
    assert not name.startswith(("-", "."))
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_run_names_with_the_same_beginning_differ() -> None:
    longest = "augmenter.transform.value=" + "1" * 300
    config = composed(f"hydra.job.override_dirname='{longest}'", hydra=True)
    names = set()
    for seed in (0, 1):
        config.seed = seed
        names.add(OmegaConf.select(config, "hydra.sweep.subdir"))
    assert len(names) == 2


def results(config: DictConfig) -> dict[str, Any]:
    row = {"clean": 0.9, "shifted": 0.8, "validation": 0.7, "seconds": 1.0}
    students = {"kd": row, "hard": {**row, "validation": 0.75}, "random_tuned": {**row, "validation": 0.1}}
    return {"students": students, "sets": ["clean", "shifted"], "main": "shifted", "config": run_identity(config)}


@pytest.mark.slow
def test_results_are_reused_for_the_same_configuration(tmp_path: Path) -> None:
    config = composed()
    path = tmp_path / "metrics.json"
    assert finished(tmp_path, config) is None
    path.write_text(json.dumps(results(config)))
    assert finished(tmp_path, composed("threads=9")) == json.loads(path.read_text())
    with pytest.raises(ValueError, match=r"seed: 0 there, 5 here.*resume=false"):
        finished(tmp_path, composed("seed=5"))
    assert path.is_file()
    assert finished(tmp_path, composed("resume=false")) is None
    assert not path.exists()  # if the new run is killed, the old results must not be reused


@pytest.mark.parametrize("text", ["", '{"students": ', "[]", "{}"])
def test_invalid_results_raise(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.json contains no valid results.*resume=false"):
        finished(tmp_path, composed())


@pytest.mark.slow
def test_the_sweep_metric_can_be_configured() -> None:
    config = composed("students=[kd,hard]")
    metrics = results(config)
    assert sweep_metric(metrics, config) == 0.75  # of the last in `students`, on validation data
    chosen = ["sweep_metric.student=kd", "sweep_metric.set=shifted"]
    assert sweep_metric(metrics, composed("students=[kd,hard]", *chosen)) == 0.8
    with pytest.raises(ValueError, match=r"sweep_metric\.set=seconds: expected one of validation, clean, shifted"):
        sweep_metric(metrics, composed("students=[kd,hard]", "sweep_metric.set=seconds"))
    with pytest.raises(ValueError, match=r"sweep_metric\.student=oracle: expected one of students="):
        check_sweep_metric(composed("students=[kd,hard]", "sweep_metric.student=oracle"))


def master(*overrides: str) -> DictConfig:
    """Return the configuration of a multirun, as Hydra passes it to its sweeper."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_automatic_config_search_path
    from hydra.types import RunMode

    search_path = create_automatic_config_search_path(None, "experiments.train", str(CONF))
    return ConfigLoaderImpl(search_path).load_configuration("train", list(overrides), RunMode.MULTIRUN)


def test_incomparable_trials_have_different_studies() -> None:
    base = study_name(master("sweep=optuna"))
    assert study_name(master("sweep=optuna", "threads=9", "hydra.sweeper.n_trials=99")) == base
    others = ["steps=7", "temperature=interval(1,4)", "sweep_metric.set=shifted", "hydra.sweeper.direction=minimize"]
    assert len({base, *(study_name(master("sweep=optuna", one)) for one in others)}) == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [([], "nothing to tune"), (["seed=1,2", "hydra/sweeper/sampler=grid"], "-m key=1,2,3"), (["seed=1,2"], None)],
)
def test_unsupported_studies(overrides: list[str], message: str | None) -> None:
    reason = unsupported_reason(master("sweep=optuna", *overrides))
    assert reason is None if message is None else message in str(reason)


def test_optuna_maximises_accuracy_on_validation_data() -> None:
    config = composed("sweep=optuna", "sweep_metric.set=shifted", hydra=True)
    assert composed("sweep=optuna").sweep_metric["set"] == "validation"
    assert config.hydra.sweeper.direction == "maximize"
    assert config.hydra.sweeper.storage == f"sqlite:///{config.hydra.sweep.dir}/optuna.db"


@pytest.mark.parametrize(
    ("launcher", "override"),
    [
        ("joblib", "hydra.launcher.n_jobs=2"),
        ("submitit_local", "hydra.launcher.timeout_min=30"),
        ("submitit_slurm", "hydra.launcher.partition=gpu"),
        ("ray", "hydra.launcher.ray.init.num_cpus=1"),
    ],
)
def test_launchers_are_instantiated(launcher: str, override: str) -> None:
    if launcher == "ray":
        pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="the extra ray, which wants another cloudpickle")
    config = composed(f"hydra/launcher={launcher}", override, hydra=True)
    made = Plugins.instance()._instantiate(config.hydra.launcher)
    assert launcher.removeprefix("submitit_") in type(made).__name__.lower()


def test_unknown_options_and_keys_raise() -> None:
    for option in (
        path.name for path in CONF.iterdir() if path.is_dir() and path.name not in ("__pycache__", "search")
    ):
        there = sorted(path.stem for path in (CONF / option).glob("*.yaml"))
        place = {"policy", "objective", "schedule", "transform", "invariance"} & {option}
        key = f"{option}@augmenter.{option}" if place else option
        with pytest.raises(MissingConfigException) as caught:
            composed(f"{key}=nonsense")
        assert all(name in str(caught.value) for name in there), option
    with pytest.raises(ConfigCompositionException, match="stpes"):
        composed("stpes=5")


@pytest.mark.slow
def test_help_lists_the_groups() -> None:
    shown = run([sys.executable, "-m", "experiments.train", "--help"])
    assert shown.returncode == 0, shown.stderr
    for group in (path for path in CONF.iterdir() if path.is_dir() and path.name != "__pycache__"):
        assert f"\n{group.name}: " in shown.stdout
    assert "sweep: optuna, seeds" in shown.stdout
