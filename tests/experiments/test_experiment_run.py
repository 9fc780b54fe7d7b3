"""Whole runs: configurations, the files of a small run, stopping and resuming, the report."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments import report
from experiments.models.networks import ConvTeacher, MLPStudent, OrbitTeacher, multiply_adds
from experiments.runs.experiment import Experiment
from experiments.tasks.random_views import random_views
from experiments.train import run
from experiments.training.interrupts import Stop
from experiments.training.loop import progress_bar
from hard_aug.transforms import Affine
from tests.helpers.engine_parts import use_few_digits
from tests.helpers.stops import StopAt

CONF = Path(__file__).parents[2] / "experiments" / "conf"


@pytest.fixture(scope="module", autouse=True)
def _few_digits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_few_digits(monkeypatch)
        yield


def config_of(tmp_path: Path, *overrides: str, name: str = "train") -> DictConfig:
    small = ["steps=12", "batch_size=32", "teacher.steps=10", "log_every=4", "checkpoint_every=8", "threads=1"]
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(name, [*small, f"teacher_cache={tmp_path}/teachers", *overrides])


OPTIONS = [f"{group}={path.stem}" for group in ("teacher", "augmenter") for path in (CONF / group).glob("*.yaml")]
OPTIONS.remove("teacher=timm")  # requires a name; see test_jobs


@pytest.mark.slow
@pytest.mark.parametrize("override", OPTIONS)
def test_every_option_builds(tmp_path: Path, override: str) -> None:
    """Each option makes hard images that differ from the clean ones, stay in [0, 1], and give a loss to descend."""
    config = config_of(tmp_path, override, "students=[hard]", "teacher.steps=1", "teacher.batch_size=2")
    splits = instantiate(config.data)
    with progress_bar() as progress:
        experiment = Experiment(config, splits, tmp_path, progress, Stop())
    student = experiment.student()
    images = splits.test.images[:4]
    hard = experiment.augmenter(student)(images)
    assert hard.images.shape == (4, 1, 28, 28)
    assert 0 <= float(hard.images.min()) <= float(hard.images.max()) <= 1
    assert bool((hard.images != images).flatten(1).any(1).all())
    loss = hard.loss()
    assert 0 < float(loss.detach()) < 10
    loss.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())


@pytest.mark.parametrize("name", [path.stem for path in (CONF / "data").glob("*.yaml")])
def test_every_data_set_composes(tmp_path: Path, name: str) -> None:
    expected = "fashion_mnist" if name == "spurious" else name
    assert config_of(tmp_path, f"data={name}").data.name == expected


#: Configurations of other commands than `experiments.train`.
OWN = ("generative", "generative_spurious", "spurious")
NAMED = [path.stem for path in CONF.glob("*.yaml") if path.stem not in OWN]


@pytest.mark.parametrize("name", NAMED)
def test_every_named_experiment_builds(tmp_path: Path, name: str) -> None:
    fashion = "fashion" in name or name in ("generate", "vae_edits")
    overrides = ["data=mnist5k", "+data.download=false", "test_shift=3"] if fashion else []
    config = config_of(tmp_path, *overrides, "students=[hard]", "teacher.steps=1", "teacher.batch_size=2", name=name)
    splits = instantiate(config.data)
    with progress_bar() as progress:
        experiment = Experiment(config, splits, tmp_path, progress, Stop())
    assert experiment.size == {"fashion": 40, "generate": 32, "vae_edits": 32}.get(name, 28)
    assert "hard" in [spec.method for spec in experiment.specs]


@pytest.mark.parametrize(
    "override",
    [
        "test_shift=0",
        "log_every=0",
        "checkpoint_every=0",
        "teacher.train_shift=-1",
        "teacher.batch_size=99999",
        "tune_random=[0.5,2.0]",
        "random_scale=0",
        "data=image_folder",
    ],
)
def test_invalid_settings_raise_before_any_training(tmp_path: Path, override: str) -> None:
    name = "data.root" if override.startswith("data") else override.split("=")[0]
    with pytest.raises((ValueError, InstantiationException), match=name):
        run(config_of(tmp_path, override), tmp_path)
    assert not list(tmp_path.rglob("*.pt"))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    config = config_of(folder, "tune_random=[0.5]")
    return folder, run(config, folder)


def test_a_run_writes_the_documented_files(whole_run: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = whole_run
    written = json.loads((folder / "metrics.json").read_text())
    assert written == json.loads(json.dumps(metrics))
    assert list(written["students"]) == ["supervised", "kd", "random", "oracle", "hard", "random_x0.5", "random_tuned"]
    for row in (written["teacher"], *written["students"].values()):
        assert 0 <= row["clean"] <= 1
        assert 0 <= row["shifted"] <= 1
        assert row["seconds"] > 0
    assert written["seed"] == 0
    assert written["device"].startswith("CPU")
    assert written["versions"]["torch"] == torch.__version__.split("+")[0]
    assert written["students"]["random_tuned"]["scale"] in (0.5, 1.0)
    assert written["policy"]["translation_x"]["sd_pixels"] == pytest.approx(
        28 * written["policy"]["translation_x"]["sd"]
    )
    for name in ("gallery.png", "policy.png", "diagnosis.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert set(written["diagnosis"]["transfer_gap_before"]) == set(written["policy"])
    assert "gap closed" in (folder / "diagnosis.txt").read_text()
    for name in ("supervised", "hard"):
        assert list((folder / "tensorboard" / name).glob("events.*"))


@pytest.mark.slow
def test_finished_students_are_not_trained_again_and_the_teacher_is_cached(
    whole_run: tuple[Path, dict[str, Any]],
) -> None:
    folder, metrics = whole_run
    again = run(config_of(folder, "tune_random=[0.5]"), folder)
    assert again["students"] == metrics["students"]
    assert not metrics["teacher"]["cached"]
    assert again["teacher"]["cached"]
    assert again["teacher"]["shifted"] == metrics["teacher"]["shifted"]


def test_another_configuration_in_the_folder_raises(whole_run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = whole_run
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match=r"steps: 12 there, 13 here.*resume=false"):
        run(config_of(folder, "steps=13", "tune_random=[0.5]"), folder)
    assert (folder / "checkpoint.pt").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(5, 6), (3, 3), (10 + 7, 11)])
def test_a_resumed_run_is_bit_identical(tmp_path: Path, stops: tuple[int, int]) -> None:
    """Stopped in the teacher, the first or the second student; between log entries, at one, and at the last step."""
    config = config_of(tmp_path, "students=[random,hard]")
    splits = instantiate(config.data)

    def attempt(folder: Path, stop: Stop) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        with progress_bar() as progress:
            experiment = Experiment(config, splits, folder, progress, stop)
            for spec in experiment.specs:
                experiment.train(spec)
        return dict(experiment.state["finished"])

    whole = attempt(tmp_path / "whole", Stop())
    shutil.rmtree(tmp_path / "teachers")
    for times in stops:
        with pytest.raises(KeyboardInterrupt):
            attempt(tmp_path / "parts", StopAt(times))
    resumed = attempt(tmp_path / "parts", Stop())
    for name in ("random", "hard"):
        for key, value in whole[name]["model"].items():
            assert torch.equal(value, resumed[name]["model"][key]), (name, key)
        assert whole[name]["metrics"]["shifted"] == resumed[name]["metrics"]["shifted"]
    assert whole["hard"]["history"] == resumed["hard"]["history"]
    for key, value in whole["hard"]["method"]["policy"].items():
        assert torch.equal(value, resumed["hard"]["method"]["policy"][key])


@pytest.mark.slow
def test_the_command_stops_at_an_interrupt(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "experiments.train", f"hydra.run.dir={tmp_path}/run", "students=[kd]"]
    command += ["steps=100000", "teacher.steps=2", f"teacher_cache={tmp_path}/teachers", "log_every=5", "threads=1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    curves = tmp_path / "run" / "tensorboard" / "kd"
    try:
        while not list(curves.glob("events.*")):
            assert process.poll() is None, process.communicate()[0]
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert "run the same command again to resume" in output
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["current"]["name"] == "kd"
    assert state["current"]["training"]["step"] >= 1


def test_unknown_students_raise(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="supervised, kd, random, oracle, hard"):
        run(config_of(tmp_path, "students=[kd,hrad]"), tmp_path)


def test_random_views_use_a_fraction_of_the_range() -> None:
    """A bright column moves by at most a quarter of the largest translation, uniformly."""
    transform = Affine(translation=0.25, rotation=None, scale=None, shear=None)
    images = torch.zeros(2000, 1, 1, 80)
    images[..., 40] = 1
    views = random_views(transform, images, torch.Generator().manual_seed(0), scale=0.25)
    columns = views[:, 0, 0]
    offsets = (columns * torch.arange(80)).sum(1) / columns.sum(1) - 40  # of the centre of mass, pixels
    assert float(offsets.abs().max()) <= 80 * 0.25 / 4 + 1e-3
    assert float(offsets.std()) == pytest.approx(5 / 3**0.5, rel=0.05)
    with pytest.raises(ValueError, match=r"scale=2\.0"):
        random_views(transform, images, torch.Generator(), scale=2.0)


def test_the_sizes_of_the_networks() -> None:
    assert multiply_adds(ConvTeacher(), (1, 28, 28)) < 2e6
    assert multiply_adds(ConvTeacher(), (1, 40, 40)) < 4e6
    assert sum(p.numel() for p in MLPStudent().parameters()) == 472_032
    assert sum(p.numel() for p in OrbitTeacher().parameters()) == 112_650


def test_the_report_pairs_runs_by_seed(
    whole_run: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, metrics = whole_run
    shifts = {0: (0.5, 0.9), 1: (0.6, 0.94)}
    for seed, (kd, hard) in shifts.items():
        changed = json.loads(json.dumps(metrics))
        changed["seed"] = changed["config"]["seed"] = seed
        changed["students"]["kd"]["shifted"], changed["students"]["hard"]["shifted"] = kd, hard
        changed["teacher"]["shifted"] = 1.0
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "metrics.json").write_text(json.dumps(changed))
    report.main([str(tmp_path), "--json", str(tmp_path / "out.json"), "--markdown"])
    printed = capsys.readouterr().out
    assert "| kd |" in printed
    summary = json.loads((tmp_path / "out.json").read_text())["groups"][0]
    assert summary["seeds"] == [0, 1]
    assert summary["accuracy"]["hard"]["shifted"] == {"mean": 92.0, "sd": 2.83, "values": [90.0, 94.0]}
    assert summary["gap_closed"]["hard"]["values"] == [80.0, 85.0]
    assert "| 82.5 ± 3.5 |" in printed
    assert summary["hard_minus"]["kd"]["shifted"]["values"] == [40.0, 34.0]
    with pytest.raises(SystemExit, match=r"no metrics\.json"):
        report.main([str(tmp_path / "nothing")])
