"""`experiments.generate` as its user runs it, and training on what it wrote; tiny models, the embedded digits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from experiments import generate
from experiments.data.streams import CropSeed, LazyImageSet
from experiments.generation.generator import HardImageGenerator, load_diffusion_model
from experiments.runs.experiment import Experiment
from experiments.train import run as train
from experiments.train_generative import build_autoencoder, build_scheduler, build_unet
from experiments.training.checkpoint import digest
from experiments.training.interrupts import Stop
from experiments.training.loop import progress_bar
from hard_aug.data import Splits, read_shards
from tests.experiments.test_engine_processes import ENVIRONMENT, launched

TINY = [
    "data=mnist5k",
    "data.canvas=32",
    "steps=6",
    "batch_size=16",
    "teacher.steps=20",
    "+teacher.model.width=4",
    "log_every=2",
    "checkpoint_every=2",
    "threads=1",
    "generation.steps=2",
    "generation.images=40",
    "generation.shard_size=10",
    "generation.batch_size=10",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, in the form that `experiments.train_generative` writes."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    settings = DictConfig({"widths": [8, 8], "latent_channels": 4})
    build_autoencoder(settings, 1).save_pretrained(folder / "vae")
    build_unet(DictConfig({"widths": [16, 16]}), 4, 16, 10).save_pretrained(folder / "unet")
    build_scheduler().save_pretrained(folder / "scheduler")
    (folder / "condition.json").write_text('{"classes": 10, "none_label": 10}')
    return folder


def overrides(models: Path, cache: Path, *more: str) -> list[str]:
    return [*TINY, f"generation.models={models}", f"teacher_cache={cache}", *more]


def config_of(models: Path, cache: Path, *more: str, name: str = "generate") -> DictConfig:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(name, overrides(models, cache, *more))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.suffix in (".tar", ".csv")
    }


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert generate.run(config_of(models, models / "cache"), folder) is not None
    return folder


def test_the_files_of_a_run(whole: Path) -> None:
    store = read_shards(whole / "images", accepted_only=False)
    assert len(store.images) == 40
    assert store.images.images.shape[1:] == (1, 32, 32)
    assert torch.equal(store.images.labels, torch.arange(40) % 10)
    assert len(set(store.images.seeds.tolist())) == 40
    index = json.loads((whole / "images" / "index.json").read_text())
    assert index["extra"]["denoiser_forward"] > 0
    assert index["extra"]["seconds"] > 0
    assert index["extra"]["rejected_judge"] > 0
    metrics = json.loads((whole / "failure_metrics.json").read_text())
    assert set(metrics) >= {"teacher_consistency", "judge_consistency", "saturated", "diversity", "rms_change"}
    kept = torch.load(whole / "checkpoint.pt", weights_only=True)["finished"]
    assert list(kept) == ["kd", "kd_other_seed"]  # `transfer` is measured on the second
    assert not torch.equal(*(next(iter(found["model"].values())) for found in kept.values()))


@pytest.mark.slow
@pytest.mark.parametrize("search", ["classifier", "tfg", "noise", "best_of_n", "unguided", "pgd"])
def test_every_search_runs(models: Path, tmp_path: Path, search: str) -> None:
    few = ["generation.images=10", "search.iterations=1"] if search in ("noise", "tfg") else ["generation.images=10"]
    index = generate.run(config_of(models, models / "cache", f"search={search}", *few), tmp_path)
    assert index is not None
    store = read_shards(tmp_path / "images", accepted_only=False)
    assert bool(store.images.scores_after.isfinite().all())
    assert index.extra["denoiser_forward"] >= 10 * 2
    assert set(json.loads((tmp_path / "failure_metrics.json").read_text())) >= {
        "teacher_consistency",
        "rms_change",
        "saturated",
    }


@pytest.mark.slow
def test_a_folder_grows(models: Path, whole: Path, tmp_path: Path) -> None:
    for images, size in ((20, 10), (40, 7)):  # batches of another size too
        more = [f"generation.images={images}", f"generation.batch_size={size}"]
        generate.run(config_of(models, models / "cache", *more), tmp_path)
    ours, theirs = (read_shards(folder / "images", accepted_only=False).images for folder in (tmp_path, whole))
    assert torch.equal(ours.seeds, theirs.seeds)
    assert (ours.images.int() - theirs.images.int()).abs().max() <= 1


@pytest.mark.slow
def test_real_images_are_started_from(models: Path, tmp_path: Path) -> None:
    config = config_of(models, models / "cache", "generation.strength=0.5", "generation.layout=image_folder")
    generate.run(config, tmp_path)
    assert (tmp_path / "images" / "images" / "00_0").is_dir()
    rows = (tmp_path / "images" / "index.csv").read_text().splitlines()
    assert len(rows) == 41
    assert rows[1].split(",")[-1] == "0"


@pytest.mark.long
def test_killed_at_any_moment_it_ends_the_same(models: Path, whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.generate", *overrides(models, models / "cache")]
    command.append(f"hydra.run.dir={tmp_path}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = 0
    for shards in (1, 3):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and len(list((tmp_path / "images").glob("shard-*.json"))) < shards:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert killed
    generate.run(config_of(models, models / "cache"), tmp_path)
    assert contents(tmp_path / "images") == contents(whole / "images")


@pytest.mark.slow
def test_two_processes_write_what_one_does(models: Path, whole: Path, tmp_path: Path) -> None:
    command = [*launched(), "experiments.generate", "device=cpu", *overrides(models, models / "cache")]
    command.append(f"hydra.run.dir={tmp_path}")
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for number in (1, 2):
        assert f"process {number} of 2: 2 shards" in done.stdout, done.stdout[-2000:]
    assert contents(tmp_path / "images") == contents(whole / "images")


def test_missing_parts_raise(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of"):
        generate.run(config_of(models, models / "cache", "generation.images=15"), tmp_path)
    with pytest.raises(FileNotFoundError, match="student_from requires the folder"):
        generate.run(config_of(models, models / "cache", f"student_from={tmp_path}/none"), tmp_path)


@pytest.mark.slow
def test_mismatches_raise_before_any_training(models: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    shutil.copytree(models, few, ignore=shutil.ignore_patterns("cache"))
    (few / "condition.json").write_text('{"classes": 4}')
    wrong = [
        (["data.canvas=null"], "32 x 32 and the data has 28 x 28; give data.canvas=32"),
        (["data.tint=[1,0,0]"], "1 channels and the data has 3"),
        ([f"generation.models={few}"], "4 classes and the data has 10"),
    ]
    for more, said in wrong:
        with pytest.raises(ValueError, match=said):
            generate.run(config_of(models, models / "cache", *more), tmp_path / "run")
        mixed = config_of(models, models / "cache", "students=[kd,generated]", *more)
        with pytest.raises(ValueError, match=said):
            train(mixed, tmp_path / "run", quiet=True, figures=False)
        assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.slow
def test_a_judge_requires_a_trained_teacher(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"teacher\.steps=0 trains none; .*generation\.judge=false"):
        generate.run(config_of(models, models / "cache", "teacher.steps=0"), tmp_path)


def test_images_that_are_read_when_asked_for_are_not_all_read(models: Path) -> None:
    class Reader:
        shape, rows = (1, 32, 32), 0

        def read(self, rows: Sequence[int], draw: CropSeed) -> torch.Tensor:
            self.rows += len(rows)
            return torch.full((len(rows), *self.shape), 100, dtype=torch.uint8)

        def prefetch(self, rows: Sequence[int], draw: CropSeed) -> None: ...

    reader = Reader()
    part = LazyImageSet(reader, torch.arange(10**6) % 10)
    splits = Splits(part, part, part, tuple(map(str, range(10))))
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)).eval()
    for strength, expected in ((1.0, 0), (0.5, 7)):
        config = config_of(models, models / "cache", f"generation.strength={strength}")
        maker = HardImageGenerator(
            config, load_diffusion_model(config, splits), teacher=teacher, judge=None, train=part, classes=10
        )
        hard, _ = maker(teacher, torch.arange(7))
        assert hard.source.tolist() == ([-1] * 7 if strength == 1 else list(range(7)))
        assert reader.rows == expected


@pytest.mark.slow
def test_the_best_trial_of_a_student_is_taken(models: Path, tmp_path: Path) -> None:
    settings = ["students=[kd]", "trials={kd:[{temperature:1.0},{temperature:9.0}]}", "select_on=clean"]
    metrics = train(config_of(models, models / "cache", *settings), tmp_path / "run", quiet=True, figures=False)
    found = []
    with progress_bar(quiet=True) as progress:
        config = config_of(models, models / "cache", f"student_from={tmp_path}/run")
        experiment = Experiment(config, instantiate(config.data), tmp_path / "ours", progress, Stop())
        found.append(digest(generate.make_student(config, experiment)))
        student, kept = experiment.student(), torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
        for number, trial in enumerate(metrics["trials"]["kd"]):
            if trial["settings"] == metrics["students"]["kd"]["trial"]:
                student.load_state_dict(kept["finished"][f"kd/{number}"]["model"])
                found.append(digest(student))
    assert len(found) == 2
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_folder_of_other_settings_is_refused(models: Path, whole: Path, tmp_path: Path) -> None:
    before = contents(whole / "images")
    with pytest.raises(ValueError, match="steps"):
        generate.run(config_of(models, models / "cache", "generation.steps=3"), whole)
    other = shutil.copytree(models, tmp_path / "other", ignore=shutil.ignore_patterns("cache"))
    torch.manual_seed(1)
    build_unet(DictConfig({"widths": [16, 16]}), 4, 16, 10).save_pretrained(other / "unet")
    kept = shutil.copytree(other, tmp_path / "models")
    generate.run(config_of(kept, models / "cache", "generation.images=10"), tmp_path / "run")
    shutil.rmtree(kept / "unet")
    shutil.copytree(models / "unet", kept / "unet")
    with pytest.raises(ValueError, match=r"weights\.models"):  # the same path, and other weights
        generate.run(config_of(kept, models / "cache", "generation.images=10"), tmp_path / "run")
    assert contents(whole / "images") == before
    anew = config_of(kept, models / "cache", "generation.images=10", "generation.steps=3", "resume=false")
    index = generate.run(anew, tmp_path / "run")
    assert index is not None
    assert index.identity["generation"]["steps"] == 3
