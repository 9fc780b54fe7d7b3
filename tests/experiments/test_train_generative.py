"""The training of the generative models as its user runs it; tiny, on the embedded digits."""

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
from experiments import train_generative
from experiments.training.interrupts import Stop
from hard_aug.generative import DiffusionModel
from tests.helpers.stops import StopAt

TINY = (
    "data.name=mnist5k",
    "data.classes=null",
    "data.families=10",
    "data.test_images=30",
    "autoencoder.widths=[8,8]",
    "autoencoder.latent_channels=4",
    "autoencoder.steps=6",
    "autoencoder.batch_size=8",
    "unet.widths=[16,16]",
    "unet.steps=6",
    "unet.batch_size=8",
    "teacher.steps=3",
    "samples=20",
    "sampling_steps=2",
    "checkpoint_every=2",
    "log_every=2",
    "threads=1",
    "device=cpu",
)


def composed(cache: Path, *overrides: str) -> DictConfig:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose("generative_spurious", [*TINY, f"teacher_cache={cache}", *overrides])


def train(folder: Path, cache: Path, *overrides: str, stop: Stop | None = None) -> dict[str, Any]:
    return train_generative.run(composed(cache, *overrides), folder, stop=stop or Stop(), quiet=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    found = train(folder, folder / "cache")
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(found))
    return folder


def weights(folder: Path) -> list[bytes]:
    return [next((folder / part).glob("*.safetensors")).read_bytes() for part in ("vae", "unet")]


def test_the_folder_is_loaded_by_diffusers_and_by_us(models: Path) -> None:
    from diffusers import AutoencoderKL, UNet2DModel

    model = DiffusionModel.from_pretrained(models)
    assert model.image_size() == (32, 32)
    assert model.condition(torch.tensor([1]))["class_labels"].tolist() == [1]
    assert AutoencoderKL.from_pretrained(models / "vae").config.scaling_factor != 0.18215
    assert UNet2DModel.from_pretrained(models / "unet").config.num_class_embeds == 11
    assert model.encode(torch.rand(4, 3, 32, 32)).shape == (4, 4, 16, 16)
    for name in ("samples.png", "reconstructions.png"):
        assert (models / name).stat().st_size > 1000
    assert not list(models.glob("*.pt"))


def test_latents_are_scaled_to_unit_spread(models: Path) -> None:
    latents = DiffusionModel.from_pretrained(models).encode(instantiate(composed(models).data).train.images[:500])
    assert float(latents.std()) == pytest.approx(1.0, abs=0.2)


def test_the_report(models: Path) -> None:
    found = json.loads((models / "report.json").read_text())
    assert found["samples"]["number"] == 20
    assert 0 < found["reconstruction"]["mean_absolute_error"] < 1
    assert found["seconds"].keys() == {"autoencoder", "unet"}
    assert len(found["samples"]["judge_accuracy_by_class"]) == 10


@pytest.mark.slow
@pytest.mark.parametrize("checks", [(3, 2), (6,), (9,)])  # of both, between the two, and in the denoiser
def test_a_stopped_training_ends_where_an_uninterrupted_one_does(
    models: Path, tmp_path: Path, checks: tuple[int, ...]
) -> None:
    for count in checks:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, models / "cache", stop=StopAt(count))
        assert (tmp_path / "autoencoder.pt").is_file()
    train(tmp_path, models / "cache")
    assert weights(tmp_path) == weights(models)
    assert not list(tmp_path.glob("*.pt"))


def test_the_learning_rate_rises_over_a_twentieth_of_the_steps(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def stopped(*_: Any, **settings: Any) -> None:
        seen.append(settings["warmup"])
        raise KeyboardInterrupt

    monkeypatch.setattr(train_generative, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, models / "cache", "autoencoder.steps=40")
    assert seen == [2]


def test_finished_models_are_only_measured_again(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_generative, "train", None)  # would raise
    before = weights(models)
    assert train(models, models / "cache", "samples=10")["samples"]["number"] == 10
    with pytest.raises(ValueError, match=r"unet\.steps: 6 there, 7 here.*resume=false"):
        train(models, models / "cache", "unet.steps=7")
    assert weights(models) == before
    train(models, models / "cache")
