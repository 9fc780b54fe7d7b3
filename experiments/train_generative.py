"""Train small generative models: `python -m experiments.train_generative [key=value ...]`.

An `AutoencoderKL` and a class-conditional `UNet2DModel` of its latents, both classes of diffusers. The run's folder can
be loaded by `hard_aug.generative.DiffusionModel.from_pretrained` and by diffusers' own `from_pretrained`:

| file | content |
|---|---|
| `vae/`, `unet/`, `scheduler/` | configuration and weights (safetensors) |
| `condition.json` | which label stands for no class |
| `report.json` | training settings and quality |
| `reconstructions.png`, `samples.png` | test images and their reconstructions; samples, one row per class |

The denoiser predicts v (Salimans & Ho, arXiv:2202.00512) on the cosine schedule. An additional label stands for no
class, for classifier-free guidance (Ho & Salimans, arXiv:2207.12598). Ctrl-C stops at the end of a step; the same
command resumes.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import hydra
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from experiments.generation.model_report import report
from experiments.train import choose_device
from experiments.training import checkpoint
from experiments.training.allocator import keep_freed_memory
from experiments.training.fit import Trainer
from experiments.training.interrupts import defer_signals, exit_on_interrupt
from experiments.training.loop import progress_bar
from hard_aug.data import ImageSet, Splits
from hard_aug.utils import disk

logger = logging.getLogger(__name__)
#: Keys on which the models do not depend.
EXCLUDED_KEYS = (
    "threads",
    "device",
    "resume",
    "checkpoint_every",
    "teacher_cache",
    "samples",
    "sampling_steps",
    "half",
    "judge",
)


def models_identity(config: DictConfig) -> dict[str, Any]:
    """Return all settings that the models depend on."""
    return checkpoint.config_identity(config, EXCLUDED_KEYS)


def build_autoencoder(settings: DictConfig, channels: int) -> AutoencoderKL:
    """Build an untrained autoencoder.

    Args:
        settings: with `widths` and `latent_channels`.
        channels: channels of the images.
    """
    stages = len(settings.widths)
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        block_out_channels=tuple(settings.widths),
        latent_channels=settings.latent_channels,
        norm_num_groups=8,
        layers_per_block=1,
        mid_block_add_attention=False,
        force_upcast=False,
    )


def build_unet(settings: DictConfig, latent_channels: int, size: int, classes: int) -> UNet2DModel:
    """Build an untrained denoiser with attention at its lowest resolution.

    Args:
        settings: with `widths`.
        latent_channels: channels of the latents.
        size: height and width of the latents.
        classes: number of classes; the label `classes` stands for no class.
    """
    plain = len(settings.widths) - 1
    return UNet2DModel(
        sample_size=size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        layers_per_block=1,
        block_out_channels=tuple(settings.widths),
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        norm_num_groups=16,
        num_class_embeds=classes + 1,
    )


def build_scheduler() -> DDIMScheduler:
    """Build a scheduler with the cosine schedule and v prediction, without clipping."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, part: ImageSet, *, batch_size: int = 256) -> Tensor:
    """Return the posterior means of all images, `(N, c, h, w)`, not scaled.

    Args:
        autoencoder: the autoencoder.
        part: the images.
        batch_size: images that are encoded at once.
    """
    return torch.cat([autoencoder.encode(2 * batch - 1).latent_dist.mode() for batch in part.images.split(batch_size)])


def train(config: DictConfig, splits: Splits, folder: Path, trainer: Trainer) -> dict[str, Any]:
    """Train both models and write them to `folder`.

    Args:
        config: the composed configuration.
        splits: the data.
        folder: folder of the run.
        trainer: trains the networks.

    Returns:
        Training time and loss of each model.
    """
    torch.manual_seed(config.seed)
    images = splits.train.images
    autoencoder = build_autoencoder(config.autoencoder, images.shape[1]).to(images.device)

    def reconstruction(batch: Tensor, labels: Tensor) -> Tensor:
        posterior = autoencoder.encode(2 * batch - 1).latent_dist
        error = (autoencoder.decode(posterior.sample()).sample - (2 * batch - 1)).abs().mean()
        pixels = batch.shape[-1] * batch.shape[-2]
        return error + config.autoencoder.kl_weight * posterior.kl().mean() / pixels

    took = {
        "autoencoder": trainer.train(
            "autoencoder", autoencoder, splits.train, config.autoencoder, reconstruction, seed=config.seed
        )
    }
    autoencoder.eval().requires_grad_(False)
    latents = encode(autoencoder, splits.train)
    mean, std = latents.mean(), latents.std()
    autoencoder.register_to_config(scaling_factor=float(1 / std), shift_factor=float(mean))

    classes = len(splits.classes)
    torch.manual_seed(
        config.seed + 1
    )  # the same initialisation, whether or not this process has trained the autoencoder
    unet = build_unet(config.unet, latents.shape[1], latents.shape[-1], classes).to(images.device)
    scheduler = build_scheduler()

    def denoising(batch: Tensor, labels: Tensor) -> Tensor:
        noise = torch.randn_like(batch)
        times = torch.randint(len(scheduler.alphas_cumprod), (len(batch),), device=batch.device)
        dropped = torch.rand(len(batch), device=batch.device) < config.unet.drop_class
        given = labels.masked_fill(dropped, classes)
        predicted = unet(scheduler.add_noise(batch, noise, times), times, class_labels=given).sample
        return (predicted - scheduler.get_velocity(batch, noise, times)).square().mean()

    scaled = ImageSet((latents - mean) / std, splits.train.labels)
    took["unet"] = trainer.train(
        "unet", unet, scaled, config.unet, denoising, seed=config.seed, decay=config.unet.decay
    )
    unet.eval().requires_grad_(False)
    for name, model in (("vae", autoencoder), ("unet", unet)):
        (model.half() if config.half else model).save_pretrained(folder / name)
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "condition.json").write_text(json.dumps({"classes": classes, "none_label": classes}) + "\n")
    return took


@hydra.main(version_base="1.3", config_path="conf", config_name="generative")
def main(config: DictConfig) -> None:
    """Run from the command line."""
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    folder = Path(HydraConfig.get().runtime.output_dir)
    splits = instantiate(config.data).to(choose_device(config.device))
    with exit_on_interrupt(folder), disk.explain_disk_full(folder), defer_signals() as stop, progress_bar() as progress:
        trainer = Trainer(
            folder / "checkpoint.pt",
            models_identity(config),
            progress,
            stop,
            resume=config.resume,
            every=config.checkpoint_every,
        )
        took = train(config, splits, folder, trainer)
        report(config, splits, folder, took, progress=progress, stop=stop)


if __name__ == "__main__":
    main()
