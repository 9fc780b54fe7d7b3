"""The generative models' training and the spurious experiment as their user runs them, tiny, on the embedded digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from omegaconf import DictConfig

pytest.importorskip("diffusers")
from experiments import train_generative as generative
from experiments.generation.model_report import report
from experiments.spurious import experiment as spurious
from experiments.training.fit import Trainer
from experiments.training.interrupts import Stop
from experiments.training.loop import progress_bar
from hard_aug.generative import DiffusionModel
from tests.helpers.stops import StopAt

TINY = [
    "data=spurious",
    "data.name=mnist5k",
    "data.classes=null",
    "data.families=10",
    "data.test_images=30",
    "autoencoder.widths=[8,8]",
    "autoencoder.steps=6",
    "autoencoder.batch_size=8",
    "unet.widths=[16,16]",
    "unet.steps=6",
    "unet.batch_size=8",
    "judge.steps=5",
    "judge.width=4",
    "samples=20",
    "sampling_steps=2",
    "checkpoint_every=2",
]


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(name, list(overrides))


def train(folder: Path, cache: Path, stop: Stop | None = None) -> dict[str, Any]:
    config = composed("generative", *TINY, f"teacher_cache={cache}")
    splits = instantiate(config.data)
    folder.mkdir(exist_ok=True)
    with progress_bar(quiet=True) as progress:
        trainer = Trainer(
            folder / "checkpoint.pt",
            generative.models_identity(config),
            progress,
            stop or Stop(),
            resume=True,
            every=config.checkpoint_every,
        )
        took = generative.train(config, splits, folder, trainer)
        return report(config, splits, folder, took, progress=progress, stop=Stop())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    found = train(folder, folder / "cache")
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(found))
    return folder


def test_the_folder_is_loaded_by_diffusers_and_by_us(models: Path) -> None:
    from diffusers import AutoencoderKL, UNet2DModel

    model = DiffusionModel.from_pretrained(models)
    assert model.image_size() == (32, 32)
    assert model.condition(torch.tensor([1]))["class_labels"].tolist() == [1]
    vae = AutoencoderKL.from_pretrained(models / "vae")
    assert vae.config.scaling_factor != 0.18215
    assert UNet2DModel.from_pretrained(models / "unet").config.num_class_embeds == 11
    images = torch.rand(4, 3, 32, 32)
    latents = model.encode(images)
    assert latents.shape == (4, 4, 16, 16)
    for name in ("samples.png", "reconstructions.png"):
        assert (models / name).stat().st_size > 1000


@pytest.mark.slow
def test_killed_between_the_two_it_ends_the_same(models: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, models / "cache", StopAt(12))  # at the denoiser's first step
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert list(state["finished"]) == ["autoencoder"]
    torch.save({**state, "current": None}, tmp_path / "checkpoint.pt")  # as a kill before that step leaves it
    train(tmp_path, models / "cache")
    for part in ("vae", "unet"):
        ours, theirs = (next((f / part).glob("*.safetensors")).read_bytes() for f in (tmp_path, models))
        assert ours == theirs


def test_latents_are_scaled_to_unit_spread(models: Path) -> None:
    config = composed("generative", *TINY)
    latents = DiffusionModel.from_pretrained(models).encode(instantiate(config.data).train.images[:500])
    assert float(latents.std()) == pytest.approx(1.0, abs=0.2)


@pytest.mark.slow
def test_a_stopped_training_ends_where_an_uninterrupted_one_does(models: Path, tmp_path: Path) -> None:
    for count in (3, 16):  # in the autoencoder, and in the denoiser
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, models / "cache", StopAt(count))
    train(tmp_path, models / "cache")
    for part in ("vae", "unet"):
        ours, theirs = (next((f / part).glob("*.safetensors")).read_bytes() for f in (tmp_path, models))
        assert ours == theirs


def config_of(models: Path, cache: Path, *overrides: str) -> DictConfig:
    parts = [*(f"{part}.steps=4" for part in ("teacher", "student")), "continued.steps=2"]
    sizes = [f"{part}.batch_size=8" for part in ("teacher", "student", "continued")]
    return composed(
        "spurious",
        "data.name=mnist5k",
        "data.classes=null",
        "data.families=10",
        "data.test_images=30",
        *parts,
        *sizes,
        f"models.all={models}",
        f"models.train={models}",
        "continued.rounds=2",
        "generation.images=40",
        "generation.batch_size=10",
        "generation.steps=2",
        "teacher.width=4",
        "student.width=4",
        f"teacher_cache={cache}",
        *overrides,
    )


def run(config: DictConfig, folder: Path, stop: Stop | None = None) -> dict[str, Any]:
    with progress_bar(quiet=True) as progress:
        experiment = spurious.SpuriousExperiment(config, instantiate(config.data), folder, progress, stop or Stop())
        metrics = experiment.run()
        experiment.draw()
    return metrics


@pytest.mark.long
def test_all_methods_run_and_a_stopped_run_goes_on(models: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    base = config_of(models, tmp_path / "cache")
    config = config_of(models, tmp_path / "cache", f"methods=[{','.join([*base.methods, 'best_of_n_away_all'])}]")
    whole = run(config, tmp_path / "whole")
    assert list(whole["students"]) == ["biased", *config.methods]
    for name in ("best_of_n_all", "diffusion_all"):
        pool = whole["students"][name]["pool"]
        assert {"accepted", "score", "judge_consistency", "diversity", "saturated", "rms_change"} <= set(pool)
    guided = whole["students"]["diffusion_all"]["pool"]["nfe_per_image"]
    for name in ("best_of_n_all", "best_of_n_away_all"):
        assert guided <= whole["students"][name]["pool"]["nfe_per_image"] <= 1.5 * guided
    assert whole["students"]["unguided_all"]["pool"]["rms_change"] == 0
    assert (tmp_path / "whole" / "views.png").stat().st_size > 1000
    for count in (2, 9, 20):
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "parts", StopAt(count))
    again = run(config, tmp_path / "parts")
    for name, found in whole["students"].items():
        assert again["students"][name]["groups"] == found["groups"], name


def test_missing_parts_raise(models: Path, tmp_path: Path) -> None:
    for methods, message in (
        ("magic", "unknown method magic"),
        ("diffusion", "expected diffusion_all"),
        ("kd_all", "expected kd"),
    ):
        with pytest.raises(ValueError, match=message):
            run(config_of(models, tmp_path, f"methods=[{methods}]"), tmp_path)
    with pytest.raises(ValueError, match=r"min_uniform_fraction=2: expected a fraction"):
        run(config_of(models, tmp_path, "min_uniform_fraction=2"), tmp_path)
    with pytest.raises(ValueError, match="must not contain all groups"):
        run(config_of(models, tmp_path, "data.rare=0.1"), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train them with python -m experiments\.generative"):
        run(config_of(models, tmp_path, f"models.all={tmp_path}/none", "methods=[vae_all]"), tmp_path)
