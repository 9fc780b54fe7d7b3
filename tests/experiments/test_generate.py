"""`experiments.generate` as its user runs it; tiny models, the embedded digits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

pytest.importorskip("diffusers")
from experiments import generate
from experiments.generation.generator import HardImageGenerator
from hard_aug.data import read_shards
from tests.helpers.engine_parts import SMALL, distil, small_config
from tests.helpers.generative_parts import run_two_processes, write_models

TINY = (
    "data=mnist5k",
    "generation.steps=2",
    "generation.images=40",
    "generation.shard_size=10",
    "generation.batch_size=10",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def distilled(models: Path) -> Path:
    return distil(models)


def config_of(models: Path, *more: str) -> DictConfig:
    return small_config(models, *TINY, f"generation.models={models}", *more, name="generate")


def run(models: Path, folder: Path, *more: str) -> Any:
    return generate.run(config_of(models, f"student_from={models}/kd", *more), folder, quiet=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.suffix in (".tar", ".csv")}


@pytest.fixture(scope="module")
def whole(models: Path, distilled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(models, folder)
    return folder


def test_the_files_of_a_run(whole: Path) -> None:
    store = read_shards(whole / "images", accepted_only=False)
    assert store.images.images.shape == (40, 1, 32, 32)
    assert torch.equal(store.images.labels, torch.arange(40) % 10)
    assert len(set(store.images.seeds.tolist())) == 40
    index = json.loads((whole / "images" / "index.json").read_text())
    assert index["extra"]["denoiser_forward"] > 0
    assert index["extra"]["seconds"] > 0
    assert index["extra"]["rejected_judge"] > 0
    metrics = json.loads((whole / "failure_metrics.json").read_text())
    assert set(metrics) >= {"teacher_consistency", "judge_consistency", "saturated", "diversity", "rms_change"}
    assert "transfer" not in metrics


@pytest.mark.slow
def test_without_a_run_a_student_is_trained(models: Path, distilled: Path, whole: Path, tmp_path: Path) -> None:
    config = config_of(models, f"generation.other_student_from={distilled}", "seed=1")
    generate.run(config, tmp_path, quiet=True)
    record = json.loads((tmp_path / "student" / "metrics.json").read_text())
    assert (record["method"], record["seed"]) == ("kd", 1)
    assert (tmp_path / "student" / "student.pt").is_file()
    assert "transfer" in json.loads((tmp_path / "failure_metrics.json").read_text())
    theirs = read_shards(whole / "images", accepted_only=False).images
    assert not torch.equal(read_shards(tmp_path / "images", accepted_only=False).images.images, theirs.images)


@pytest.mark.slow
def test_only_missing_shards_are_generated(
    models: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    call = HardImageGenerator.__call__

    def recorded(self: HardImageGenerator, student: Any, indices: torch.Tensor, **unguided: Any) -> Any:
        if not unguided:
            made.append(int(indices[0]) if len(indices) == 10 else -1)  # -1: for the failure metrics
        return call(self, student, indices, **unguided)

    monkeypatch.setattr(HardImageGenerator, "__call__", recorded)
    for images, size in ((20, 10), (40, 7), (40, 7)):  # the folder grows, with batches of another size
        run(models, tmp_path, f"generation.images={images}", f"generation.batch_size={size}")
    assert made == [0, 10, -1, 20, 30, -1, -1]
    ours, theirs = (read_shards(folder / "images", accepted_only=False).images for folder in (tmp_path, whole))
    assert torch.equal(ours.seeds, theirs.seeds)
    assert (ours.images.int() - theirs.images.int()).abs().max() <= 1
    (tmp_path / "images" / "shard-000002.json").unlink()
    run(models, tmp_path)
    assert made[7:] == [20, -1]


@pytest.mark.slow
def test_real_images_are_started_from(models: Path, distilled: Path, tmp_path: Path) -> None:
    run(models, tmp_path, "generation.strength=0.5", "generation.layout=image_folder")
    assert (tmp_path / "images" / "images" / "00_0").is_dir()
    rows = (tmp_path / "images" / "index.csv").read_text().splitlines()
    assert len(rows) == 41
    assert rows[1].split(",")[-1] == "0"


@pytest.mark.long
def test_killed_at_any_moment_it_ends_the_same(models: Path, whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.generate", *SMALL, *TINY, f"generation.models={models}"]
    command += [f"student_from={models}/kd", f"teacher_cache={models}/teachers", f"hydra.run.dir={tmp_path}"]
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
    run(models, tmp_path)
    assert contents(tmp_path / "images") == contents(whole / "images")


@pytest.mark.slow
def test_two_processes_write_what_one_does(models: Path, whole: Path, tmp_path: Path) -> None:
    given = (f"generation.models={models}", f"student_from={models}/kd", f"teacher_cache={models}/teachers")
    run_two_processes("experiments.generate", *SMALL, *TINY, *given, f"hydra.run.dir={tmp_path}")
    assert contents(tmp_path / "images") == contents(whole / "images")


def test_missing_parts_raise(models: Path, distilled: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of"):
        run(models, tmp_path, "generation.images=15")
    with pytest.raises(ValueError, match=r"generation\.sheet"):
        run(models, tmp_path, "generation.sheet=0")
    with pytest.raises(FileNotFoundError, match="expected the folder of a finished run"):
        generate.run(config_of(models, f"student_from={tmp_path}/none"), tmp_path, quiet=True)
    with pytest.raises(ValueError, match=r"student\.pt has student=.*; expected the same"):
        run(models, tmp_path, "student=conv")
    with pytest.raises(ValueError, match=r"data has 28 x 28; give data\.canvas=32"):
        generate.run(config_of(models, "data.canvas=null"), tmp_path, quiet=True)
    assert not (tmp_path / "student").exists()


@pytest.mark.slow
def test_a_folder_of_other_settings_is_refused(models: Path, whole: Path, tmp_path: Path) -> None:
    before = contents(whole / "images")
    with pytest.raises(ValueError, match="steps"):
        run(models, whole, "generation.steps=3")
    kept = write_models(tmp_path / "models")
    given = [f"generation.models={kept}", "generation.images=10"]
    run(models, tmp_path / "run", *given)
    shutil.rmtree(kept)
    from diffusers import UNet2DModel

    unet = UNet2DModel.from_pretrained(write_models(kept) / "unet")
    with torch.no_grad():
        next(unet.parameters()).add_(1)
    unet.save_pretrained(kept / "unet")
    with pytest.raises(ValueError, match=r"weights\.models"):  # the same path, and other weights
        run(models, tmp_path / "run", *given)
    assert contents(whole / "images") == before
    index = run(models, tmp_path / "run", *given, "generation.steps=3", "resume=false")
    assert index.identity["generation"]["steps"] == 3
