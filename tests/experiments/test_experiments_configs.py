"""The named experiments: each composes, has the same number of trials for every row, and trains."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments import train
from experiments.configuration.run import check_numbers, run_identity
from experiments.configuration.students import student_specs
from experiments.runs.experiment import Experiment
from experiments.train import run
from experiments.training.interrupts import Stop
from experiments.training.loop import progress_bar
from hard_aug.data import Splits
from tests.helpers.engine_parts import use_few_digits

CONF = Path(__file__).parents[2] / "experiments" / "conf"
NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
#: Data that may be unavailable, by experiment.
DATA = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet": "imagenet"}
WITH_DATA = [name for name in NAMES if (CONF / "data" / f"{DATA.get(name, 'mnist5k')}.yaml").is_file()]


@pytest.fixture(scope="module", autouse=True)
def _few_digits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_few_digits(monkeypatch)
        yield


def composed(*overrides: str, name: str = "train") -> DictConfig:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(name, list(overrides))


def test_the_list_of_named_experiments() -> None:
    assert NAMES == ["cifar10", "cifar100", "convergence", "fashion_robust", "imagenet", "toy_rotation", "toy_shift"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_DATA)
def test_each_named_experiment_composes(name: str) -> None:
    config = composed(f"experiment={name}")
    found = student_specs(config)
    assert {"kd", "random", "hard"} <= {spec.row for spec in found}
    rows = [spec.row for spec in found if not spec.row.startswith("random_x")]
    assert len({rows.count(row) for row in rows}) == 1  # equal tuning
    assert config.task.name if "name" in config.task else config.task._target_
    assert run_identity(config)["steps"] == config.steps
    assert composed(f"experiment={name}", "steps=7", "student=vit").steps == 7  # the command line takes precedence


def test_the_toy_experiments_equal_their_older_configurations() -> None:
    assert run_identity(composed("experiment=toy_shift")) == run_identity(composed(name="digits"))
    assert run_identity(composed("experiment=toy_rotation")) == run_identity(composed(name="invariances"))


@pytest.mark.parametrize("name", ["toy_shift", "toy_rotation"])
def test_the_toy_experiments_run(tmp_path: Path, name: str) -> None:
    small = ["steps=2", "batch_size=16", "teacher.steps=2", "threads=1", f"teacher_cache={tmp_path}/teachers"]
    metrics = run(composed(f"experiment={name}", *small), tmp_path / "run", quiet=True, figures=False)
    assert {"kd", "random_tuned", "oracle", "hard"} <= set(metrics["students"])
    assert metrics["students"]["random_tuned"]["trials"] == 3


#: The embedded digits in place of data that is downloaded.
DIGITS = ["data.name=mnist5k", "teacher.steps=2", "steps=2", "eval_every=null", "threads=1"]


def few(config: DictConfig) -> Splits:
    whole = instantiate(config.data)
    held = slice(0, 40)
    return Splits(whole.train, whole.validation[held], whole.test[held], whole.classes)


@pytest.mark.slow
def test_students_of_any_fraction_share_a_teacher_of_all_images(tmp_path: Path) -> None:
    cached = {}
    for fraction, teacher_fraction in ((0.1, "1.0"), (0.2, "1.0"), (1.0, "null"), (0.2, "null")):
        config = composed(
            f"data.fraction={fraction}",
            f"teacher.fraction={teacher_fraction}",
            f"teacher_cache={tmp_path}/teachers",
            *DIGITS,
        )
        splits = instantiate(config.data)
        with progress_bar(quiet=True) as progress:
            experiment = Experiment(config, splits, tmp_path / f"{fraction}-{teacher_fraction}", progress, Stop())
        assert len(experiment.splits.train) == pytest.approx(3500 * fraction, abs=10)
        cached[fraction, teacher_fraction] = experiment.teacher_metrics["cached"]
    assert cached == {(0.1, "1.0"): False, (0.2, "1.0"): True, (1.0, "null"): True, (0.2, "null"): False}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.fraction=2"], r"teacher\.fraction=2: expected a fraction in \(0, 1\]"),
        (["teacher.fraction=1.0", "~data.fraction"], r"teacher\.fraction=1\.0: these data have no data\.fraction"),
        (["batch_size=abc"], "batch_size=abc: expected an integer >= 1"),
        (["steps=2.5"], r"steps=2\.5: expected an integer >= 1"),
        (["threads=0"], "threads=0: expected an integer >= 1"),
        (["seed=foo"], "seed=foo: expected an integer >= 0"),
        (["eval_every=often"], "eval_every=often: expected an integer >= 1"),
    ],
)
def test_invalid_numbers_raise(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_numbers(composed(*overrides))


@pytest.mark.slow
def test_every_row_and_trial_of_fashion_robust_trains(tmp_path: Path) -> None:
    few_steps = ["batch_size=16", "budget=steps", f"teacher_cache={tmp_path}/teachers"]
    config = composed("experiment=fashion_robust", *DIGITS, *few_steps)
    with progress_bar(quiet=True) as progress:
        experiment = Experiment(config, few(config), tmp_path, progress, Stop())
        for spec in experiment.specs:
            experiment.train(spec)
    results = experiment.results()
    assert len(results) == 12
    assert all(row["trials"] == 2 for row in results.values())
    assert all(0 <= row["corrupted"] <= 1 for row in results.values())
    assert results["hard"]["evaluations"] > results["cutmix"]["evaluations"] > results["kd"]["evaluations"]


def test_convergence_records_curves(tmp_path: Path) -> None:
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
        for spec in experiment.specs:
            experiment.train(spec)
    for row in experiment.results().values():
        assert [point["step"] for point in row["curve"]] == [1, 2]
        assert {"clean", "corrupted", "noise", "evaluations", "seconds"} <= set(row["curve"][0])
        assert row["curve"][-1]["corrupted"] == row["corrupted"]


def test_an_unknown_device_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device=foo: expected auto, cpu, cuda"):
        run(composed("device=foo"), tmp_path / "run", quiet=True)


def test_invalid_settings_of_any_student_raise_before_the_first_one_is_trained(tmp_path: Path) -> None:
    config = composed("students=[kd,hard]", "augmenter.learning_rate=-1", f"teacher_cache={tmp_path}/teachers", *DIGITS)
    with pytest.raises(ValueError, match="learning_rate=-1"):
        run(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "curves").exists()


def test_a_stop_after_the_last_step_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(experiment: Experiment) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    monkeypatch.setattr(train, "student_failure_metrics", interrupted)
    config = composed("students=[kd]", f"teacher_cache={tmp_path}/teachers", *DIGITS)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "metrics.json").exists()
    monkeypatch.undo()
    assert set(run(config, tmp_path / "run", quiet=True)["students"]) == {"kd"}
