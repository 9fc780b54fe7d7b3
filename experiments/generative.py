"""Train small generative models: `python -m experiments.generative [key=value ...]`.

An `AutoencoderKL` and a class-conditional `UNet2DModel` that denoises its latents, both diffusers' own classes. The
run's folder is then read by `hard_aug.solvers.Diffuser.from_pretrained` and by diffusers' own `from_pretrained`:

| in the folder | what it is |
|---|---|
| `vae/`, `unet/`, `scheduler/` | configuration and weights (safetensors) |
| `condition.json` | which label stands for no class |
| `report.json` | how they were made and how good they are |
| `reconstructions.png`, `samples.png` | test images and their reconstructions; samples, one row a class |

The denoiser predicts v (Salimans & Ho, arXiv:2202.00512) on the cosine schedule, and knows one class more than there
are: none, for classifier-free guidance (Ho & Salimans, arXiv:2207.12598). Ctrl-C stops at the end of a step; the same
command goes on from there.
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

from experiments import checkpoint, disk
from experiments.data import Part, Splits
from experiments.generative_report import report
from experiments.memory import keep_freed_memory
from experiments.stop import graceful, told
from experiments.train import choose_device
from experiments.trainer import Trainer
from experiments.training import progress_bar

logger = logging.getLogger(__name__)
FREE = (
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


def identity(config: DictConfig) -> dict[str, Any]:
    """All settings that the models depend on."""
    return checkpoint.identity(config, FREE)


def build_autoencoder(settings: DictConfig, channels: int) -> AutoencoderKL:
    """An untrained autoencoder."""
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
    """An untrained denoiser with attention at its lowest resolution; class number `classes` is none."""
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
    """The cosine schedule with v prediction; latents are not clipped."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )


@torch.no_grad()
def encoded(autoencoder: AutoencoderKL, part: Part, *, batch_size: int = 256) -> Tensor:
    """The posterior means of all images, `(N, c, h, w)`, not scaled."""
    return torch.cat([autoencoder.encode(2 * batch - 1).latent_dist.mode() for batch in part.images.split(batch_size)])


def train(config: DictConfig, splits: Splits, folder: Path, trainer: Trainer) -> dict[str, Any]:
    """Train both models, write them into `folder`, and return how long each took."""
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
    latents = encoded(autoencoder, splits.train)
    mean, spread = latents.mean(), latents.std()
    autoencoder.register_to_config(scaling_factor=float(1 / spread), shift_factor=float(mean))

    classes = len(splits.classes)
    torch.manual_seed(config.seed + 1)  # the same start, whether or not this run has trained the autoencoder
    unet = build_unet(config.unet, latents.shape[1], latents.shape[-1], classes).to(images.device)
    scheduler = build_scheduler()

    def denoising(batch: Tensor, labels: Tensor) -> Tensor:
        noise = torch.randn_like(batch)
        times = torch.randint(len(scheduler.alphas_cumprod), (len(batch),), device=batch.device)
        given = labels.masked_fill(torch.rand(len(batch), device=batch.device) < config.unet.drop_class, classes)
        predicted = unet(scheduler.add_noise(batch, noise, times), times, class_labels=given).sample
        return (predicted - scheduler.get_velocity(batch, noise, times)).square().mean()

    scaled = Part((latents - mean) / spread, splits.train.labels)
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
    """Hydra's entry."""
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    folder = Path(HydraConfig.get().runtime.output_dir)
    splits = instantiate(config.data).to(choose_device(config.device))
    with told(folder), disk.explained(folder), graceful() as stop, progress_bar() as progress:
        trainer = Trainer(
            folder / "checkpoint.pt",
            identity(config),
            progress,
            stop,
            resume=config.resume,
            every=config.checkpoint_every,
        )
        took = train(config, splits, folder, trainer)
        report(config, splits, folder, took, progress=progress, stop=stop)


if __name__ == "__main__":
    main()
