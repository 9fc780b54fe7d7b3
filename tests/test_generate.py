"""`experiments.generate` as its user runs it, and training on what it wrote; tiny models, the embedded digits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from torch import nn

from experiments import generate
from experiments.generative import build_autoencoder, build_scheduler, build_unet
from experiments.shards import read
from experiments.train import run as train

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
    "generation.judge=false",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, in the form that `experiments.generative` writes."""
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


def test_a_run_leaves_what_it_promises(whole: Path) -> None:
    store = read(whole / "images", accepted_only=False)
    assert len(store.images) == 40
    assert store.images.images.shape[1:] == (1, 32, 32)
    assert torch.equal(store.images.labels, torch.arange(40) % 10)
    assert len(set(store.images.seeds.tolist())) == 40
    index = json.loads((whole / "images" / "index.json").read_text())
    assert index["extra"]["denoiser_forward"] > 0
    assert index["extra"]["seconds"] > 0


@pytest.mark.parametrize("solver", ["classifier", "tfg", "noise", "best_of_n", "unguided", "pgd"])
def test_every_solver_runs(models: Path, tmp_path: Path, solver: str) -> None:
    few = ["generation.images=10", "solver.iterations=1"] if solver in ("noise", "tfg") else ["generation.images=10"]
    index = generate.run(config_of(models, models / "cache", f"solver={solver}", *few), tmp_path)
    assert index is not None
    store = read(tmp_path / "images", accepted_only=False)
    assert bool(store.images.scores_after.isfinite().all())
    assert index.extra["denoiser_forward"] >= 10 * 2
    assert set(json.loads((tmp_path / "detectors.json").read_text())) >= {"teacher_keeps", "moved", "saturated"}


def test_a_folder_grows(models: Path, whole: Path, tmp_path: Path) -> None:
    for images, size in ((20, 10), (40, 7)):  # batches of another size too
        more = [f"generation.images={images}", f"generation.batch_size={size}"]
        generate.run(config_of(models, models / "cache", *more), tmp_path)
    ours, theirs = (read(folder / "images", accepted_only=False).images for folder in (tmp_path, whole))
    assert torch.equal(ours.seeds, theirs.seeds)
    assert (ours.images.int() - theirs.images.int()).abs().max() <= 1


def test_real_images_are_started_from(models: Path, tmp_path: Path) -> None:
    config = config_of(models, models / "cache", "generation.strength=0.5", "generation.layout=image_folder")
    generate.run(config, tmp_path)
    assert (tmp_path / "images" / "images" / "00_0").is_dir()
    rows = (tmp_path / "images" / "index.csv").read_text().splitlines()
    assert len(rows) == 41
    assert rows[1].split(",")[-1] == "0"


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


def test_two_processes_write_what_one_does(models: Path, whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "experiments.generate", "device=cpu"]
    command += [*overrides(models, models / "cache"), f"hydra.run.dir={tmp_path}"]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for number in (1, 2):
        assert f"process {number} of 2: 2 shards" in done.stdout, done.stdout[-2000:]
    assert contents(tmp_path / "images") == contents(whole / "images")


def mixed(models: Path, folder: Path, *more: str) -> dict[str, Any]:
    settings = ["students=[kd,mixed]", "steps=8", "batch_size=16", *more]
    return train(config_of(models, models / "cache", *settings), folder, quiet=True, pictures=False)


def accept_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher of twenty steps accepts next to nothing of what random weights draw; the training is what is tested."""
    from hard_aug.solvers import Acceptance

    call = Acceptance.__call__

    def everything(self: Acceptance, images: Any, labels: Any) -> Any:
        verdict = call(self, images, labels)
        return replace(verdict, accepted=torch.ones_like(verdict.accepted))

    monkeypatch.setattr(Acceptance, "__call__", everything)


def test_training_takes_a_folder_or_makes_one(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept_all(monkeypatch)
    generate.run(config_of(models, models / "cache"), tmp_path / "made")
    folder = f"hard_images.folder={tmp_path}/made/images"
    fixed = mixed(models, tmp_path / "fixed", folder)
    assert set(fixed["students"]) == {"kd", "mixed"}
    fresh = mixed(models, tmp_path / "fresh", "generation.images=20")
    assert fresh["students"]["mixed"]["centred"] != fixed["students"]["mixed"]["centred"]
    again = mixed(models, tmp_path / "again", folder)
    for result in (fixed, again):
        result["students"]["mixed"].pop("seconds")
    assert again["students"]["mixed"] == fixed["students"]["mixed"]


def test_a_refresh_makes_a_generation_against_the_student(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.mixing import Mixing

    accept_all(monkeypatch)
    made: list[tuple[nn.Module, int]] = []
    after = Mixing.after_step

    def counted(self: Mixing) -> None:
        before = self.batches.pool.generations
        after(self)
        if self.batches.pool.generations > before:
            made.append((self.student, before))

    monkeypatch.setattr(Mixing, "after_step", counted)
    more = ["hard_images.refresh.every=1", "generation.images=10", "steps=5", "batch_size=1750"]
    mixed(models, tmp_path, *more)
    assert [generation for _, generation in made] == [1, 2]


def test_what_is_missing_is_said(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of"):
        generate.run(config_of(models, models / "cache", "generation.images=15"), tmp_path)
    with pytest.raises(FileNotFoundError, match="student_from wants the folder"):
        generate.run(config_of(models, models / "cache", f"student_from={tmp_path}/none"), tmp_path)
    with pytest.raises(ValueError, match="students=\\[kd,mixed\\]"):
        mixed(models, tmp_path / "alone", "students=[mixed]")
    settings = ["steps=2", "students=[kd,mixed]", "teacher.steps=2", f"teacher_cache={tmp_path}"]
    with initialize_config_module("experiments.conf", version_base="1.3"):
        plain = compose("train", settings)
    with pytest.raises(ValueError, match="use --config-name generate"):
        train(plain, tmp_path / "plain", quiet=True, pictures=False)


def test_a_folder_of_other_settings_is_refused(models: Path, whole: Path) -> None:
    with pytest.raises(ValueError, match="steps"):
        generate.run(config_of(models, models / "cache", "generation.steps=3", "resume=false"), whole)
