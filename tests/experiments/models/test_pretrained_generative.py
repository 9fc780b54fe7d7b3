"""The small models in `experiments/pretrained`: they load, sample and reconstruct, and have the documented size."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from experiments.data import load
from experiments.models import SHIPPED, autoencoder, diffusion_model, hierarchical_vae, latent_edits
from hard_aug.data import ImageSet
from hard_aug.generative import ClassLabels, DiffusionModel, DiffusionSampler, latent_directions
from hard_aug.generative.latent_codec import LatentCodec
from hard_aug.generative.noise import noise_from_seeds

pytest.importorskip("diffusers")


@pytest.mark.slow
def test_a_sample_of_each_class() -> None:
    loaded = DiffusionModel.from_pretrained(SHIPPED, local_files_only=True)
    assert isinstance(loaded.condition, ClassLabels)
    assert (loaded.condition.classes, loaded.condition.none_label) == (10, 10)
    assert loaded.image_size() == (32, 32)
    assert not any(weight.requires_grad for weight in loaded.denoiser.parameters())
    sampler, labels = DiffusionSampler(loaded, steps=2), torch.arange(10)
    noise = noise_from_seeds(
        torch.zeros(10, dtype=torch.int64), loaded.latent_shape(32, 32), loaded.device
    )  # the same for all
    with torch.no_grad():
        images = loaded.decode(sampler.run(noise, labels))
        again = diffusion_model(device="cpu").decode(sampler.run(noise, labels))
    assert images.shape == (10, 1, 32, 32)
    assert bool(images.isfinite().all())
    assert 0 <= float(images.min()) < 0.1
    assert 0.6 < float(images.max()) <= 1
    assert torch.equal(images, again)
    apart = (images[:, None] - images[None]).abs().mean((2, 3, 4)) + torch.eye(10)
    assert float(apart.min()) > 0.01  # the class makes a difference
    assert float(images[:, :, 0].mean()) < 0.1  # and the border is dark, as in the data


@pytest.mark.slow
def test_reconstructions_are_better_than_a_constant() -> None:
    """Digits, which it was not trained on, padded as its own data was; scaled latents have a spread of about one."""
    images = load("mnist5k", canvas=32).test.images[:100]
    model = autoencoder(device="cpu")
    assert not any(weight.requires_grad for weight in model.parameters())
    codec = LatentCodec(model)
    with torch.no_grad():
        latents = codec.encode(images)
        found = codec.decode(latents)
    best = F.mse_loss(images.mean().expand_as(images), images)  # of all constants
    each = F.mse_loss(images.mean((1, 2, 3), keepdim=True).expand_as(images), images)  # of one for each image
    assert float(F.mse_loss(found, images)) < 0.2 * min(float(best), float(each))
    assert 0.3 < float(codec.scale(latents).std()) < 3


def test_their_size_and_report() -> None:
    files = [path for path in SHIPPED.parent.rglob("*") if path.is_file()]
    assert {path.name for path in files if path.parent.name in ("vae", "unet")} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    report = json.loads((SHIPPED / "report.json").read_text())
    assert report["reconstruction"]["mean_absolute_error"] < 0.05
    assert report["samples"]["judge_accuracy"] > 0.7


@pytest.mark.slow
def test_edits_along_the_principal_directions_of_the_first_images() -> None:
    part = load("mnist5k", canvas=32).train
    images = ImageSet(part.images[:40], part.labels[:40])
    model = autoencoder(device="cpu")
    edits = latent_edits(model, images=images, directions=3, direction_images=30, direction=2.0)
    assert [(one.name, one.low, one.high) for one in edits.spec] == [(f"direction_{n}", -2.0, 2.0) for n in range(3)]
    assert edits.directions is not None
    assert torch.equal(edits.directions, latent_directions(model, images.images[:30], 3))
    assert torch.allclose(edits(images.images[:2], torch.zeros(2, 3)), images.images[:2], atol=1e-6)
    with_shift = latent_edits(model, images=images, directions=2, direction_images=30, direction=2.0, shift=1.0)
    assert len(with_shift.spec) == 2 + 4


def test_a_hierarchical_vae_requires_a_folder() -> None:
    with pytest.raises(ValueError, match=r"no hierarchical VAE is shipped: .*augmenter\.transform\.vae\.folder="):
        hierarchical_vae()
