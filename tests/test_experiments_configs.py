"""The experiments by name: each composes, asks for as many trials of every row, and takes some steps."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments import train
from experiments.data import Splits
from experiments.experiment import Experiment, check_numbers, identity
from experiments.jobs import jobs
from experiments.stop import Stop
from experiments.train import run
from experiments.training import progress_bar

CONF = Path(__file__).parents[1] / "experiments" / "conf"
NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
#: Data that is not everywhere, by experiment.
DATA = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet": "imagenet"}
WITH_DATA = [name for name in NAMES if (CONF / "data" / f"{DATA.get(name, 'mnist5k')}.yaml").is_file()]


def composed(*overrides: str, name: str = "train") -> DictConfig:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(name, list(overrides))


def test_they_are_all_there() -> None:
    assert NAMES == ["cifar10", "cifar100", "convergence", "fashion_robust", "imagenet", "toy_rotation", "toy_shift"]


@pytest.mark.parametrize("name", WITH_DATA)
def test_each_composes(name: str) -> None:
    config = composed(f"experiment={name}")
    found = jobs(config)
    assert {"kd", "random", "hard"} <= {job.row for job in found}
    rows = [job.row for job in found if not job.row.startswith("random_x")]
    assert len({rows.count(row) for row in rows}) == 1  # equal tuning
    assert config.task.name if "name" in config.task else config.task._target_
    assert identity(config)["steps"] == config.steps
    assert composed(f"experiment={name}", "steps=7", "student=vit").steps == 7  # the command line has the last word


def test_the_toys_are_the_runs_that_they_were() -> None:
    assert identity(composed("experiment=toy_shift")) == identity(composed(name="digits"))
    assert identity(composed("experiment=toy_rotation")) == identity(composed(name="invariances"))


@pytest.mark.parametrize("name", ["toy_shift", "toy_rotation"])
def test_the_toys_run(tmp_path: Path, name: str) -> None:
    small = ["steps=2", "batch_size=16", "teacher.steps=2", "threads=1", f"teacher_cache={tmp_path}/teachers"]
    metrics = run(composed(f"experiment={name}", *small), tmp_path / "run", quiet=True, pictures=False)
    assert {"kd", "random_tuned", "oracle", "hard"} <= set(metrics["students"])
    assert metrics["students"]["random_tuned"]["trials"] == 3


#: The embedded digits in place of data that is fetched.
DIGITS = ["data.name=mnist5k", "teacher.steps=2", "steps=2", "eval_every=null", "threads=1"]


def few(config: DictConfig) -> Splits:
    whole = instantiate(config.data)
    held = slice(0, 40)
    return Splits(whole.train, whole.validation[held], whole.test[held], whole.classes)


def test_a_teacher_of_all_the_data_serves_students_of_any_share(tmp_path: Path) -> None:
    cached = {}
    for share, shown in ((0.1, "1.0"), (0.2, "1.0"), (1.0, "null"), (0.2, "null")):
        config = composed(
            f"data.fraction={share}", f"teacher.fraction={shown}", f"teacher_cache={tmp_path}/teachers", *DIGITS
        )
        splits = instantiate(config.data)
        with progress_bar(quiet=True) as progress:
            experiment = Experiment(config, splits, tmp_path / f"{share}-{shown}", progress, Stop())
        assert len(experiment.splits.train) == pytest.approx(3500 * share, abs=10)
        cached[share, shown] = experiment.teacher_metrics["cached"]
    assert cached == {(0.1, "1.0"): False, (0.2, "1.0"): True, (1.0, "null"): True, (0.2, "null"): False}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["teacher.fraction=2"], r"teacher\.fraction=2: wanted a share of the training images in \(0, 1\]"),
        (["teacher.fraction=1.0", "~data.fraction"], r"teacher\.fraction=1\.0: these data have no data\.fraction"),
        (["batch_size=abc"], "batch_size=abc: wanted a whole number of at least 1"),
        (["steps=2.5"], r"steps=2\.5: wanted a whole number of at least 1"),
        (["threads=0"], "threads=0: wanted a whole number of at least 1"),
        (["seed=foo"], "seed=foo: wanted a whole number of at least 0"),
        (["eval_every=often"], "eval_every=often: wanted a whole number of at least 1, or null for never"),
    ],
)
def test_a_number_that_can_not_be_is_refused(overrides: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_numbers(composed(*overrides))


def test_every_row_and_trial_of_fashion_robust_takes_steps(tmp_path: Path) -> None:
    few_steps = ["batch_size=16", "budget=steps", f"teacher_cache={tmp_path}/teachers"]
    config = composed("experiment=fashion_robust", *DIGITS, *few_steps)
    with progress_bar(quiet=True) as progress:
        experiment = Experiment(config, few(config), tmp_path, progress, Stop())
        for job in experiment.jobs:
            experiment.train(job)
    results = experiment.results()
    assert len(results) == 12
    assert all(row["trials"] == 2 for row in results.values())
    assert all(0 <= row["corrupted"] <= 1 for row in results.values())
    assert results["hard"]["evaluations"] > results["cutmix"]["evaluations"] > results["kd"]["evaluations"]


def test_convergence_draws_curves(tmp_path: Path) -> None:
    config = composed(
        "experiment=convergence",
        *DIGITS,
        "budget=steps",
        "eval_every=1",
        "students=[kd,hard]",
        "trials.kd=[{temperature:2}]",
        "trials.hard=[{transform:affine}]",
        f"teacher_cache={tmp_path}/teachers",
    )
    with progress_bar(quiet=True) as progress:
        experiment = Experiment(config, few(config), tmp_path, progress, Stop())
        for job in experiment.jobs:
            experiment.train(job)
    for row in experiment.results().values():
        assert [point["step"] for point in row["curve"]] == [1, 2]
        assert {"clean", "corrupted", "noise", "evaluations", "seconds"} <= set(row["curve"][0])
        assert row["curve"][-1]["corrupted"] == row["corrupted"]


def test_a_device_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device=foo: wanted auto, cpu, cuda"):
        run(composed("device=foo"), tmp_path / "run", quiet=True)


def test_settings_of_any_student_are_tried_before_the_first_one_trains(tmp_path: Path) -> None:
    config = composed("students=[kd,hard]", "augmenter.learning_rate=-1", f"teacher_cache={tmp_path}/teachers", *DIGITS)
    with pytest.raises(ValueError, match="learning_rate=-1"):
        run(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "curves").exists()


def test_a_stop_after_the_last_step_is_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(experiment: Experiment) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    monkeypatch.setattr(train, "detected", interrupted)
    config = composed("students=[kd]", f"teacher_cache={tmp_path}/teachers", *DIGITS)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "metrics.json").exists()
    monkeypatch.undo()
    assert set(run(config, tmp_path / "run", quiet=True)["students"]) == {"kd"}
