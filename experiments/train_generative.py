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

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.configuration.command import hydra_command
from experiments.configuration.devices import choose_device
from experiments.configuration.identity import resolved
from experiments.generation.model_report import report
from experiments.training import checkpoint
from experiments.training.allocator import keep_freed_memory
from experiments.training.files import read_json, write_json
from experiments.training.fit import Loss, fit
from experiments.training.interrupts import Stop, defer_signals
from experiments.training.progress import Progress
from experiments.training.settings import TrainerSettings
from experiments.training.setup import Setup
from hard_aug.data import ImageSet

#: Keys on which the models do not depend: `teacher` is the judge of their quality.
EXCLUDED = (
    *("threads", "device", "resume", "log_every", "checkpoint_every", "teacher_cache"),
    *("samples", "sampling_steps", "teacher", "task"),
)


def build_autoencoder(settings: DictConfig, channels: int) -> AutoencoderKL:
    """Return an untrained autoencoder; `settings`: with `widths` and `latent_channels`."""
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
    """Return an untrained denoiser of latents of `size`, with attention at its lowest resolution.

    The label `classes` stands for no class; `settings`: with `widths`.
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
    """Return a scheduler with the cosine schedule and v prediction, without clipping."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, part: ImageSet, *, batch_size: int = 256) -> Tensor:
    """Return the posterior means of all images, `(N, c, h, w)`, not scaled."""
    batches = (part[slice(start, start + batch_size)] for start in range(0, len(part), batch_size))
    shown = (2 * batch.materialize().images - 1 for batch in batches)
    return torch.cat([autoencoder.encode(images).latent_dist.mode() for images in shown])


def train(setup: Setup, folder: Path) -> dict[str, float]:
    """Train both models, write them to `folder`, and return the training time of each in seconds."""
    config, images, classes = setup.config, setup.splits.train, len(setup.splits.classes)
    torch.manual_seed(config.seed)
    autoencoder = build_autoencoder(config.autoencoder, images.shape[0]).to(setup.device)

    def reconstruction(batch: Tensor, labels: Tensor) -> Tensor:
        posterior = autoencoder.encode(2 * batch - 1).latent_dist
        error = (autoencoder.decode(posterior.sample()).sample - (2 * batch - 1)).abs().mean()
        pixels = batch.shape[-1] * batch.shape[-2]
        return error + config.autoencoder.kl_weight * posterior.kl().mean() / pixels

    def fitted(name: str, model: nn.Module, loss: Loss, part: ImageSet, ema: float = 0.0) -> float:
        node = config[name]
        found = fit(
            name,
            model,
            loss,
            setup.batches(name, part, node.batch_size, config.seed),
            steps=node.steps,
            learning_rate=node.learning_rate,
            warmup=node.steps // 20,
            settings=TrainerSettings(ema=ema),
            **setup.common(config.seed, folder / f"{name}.pt", identity(resolved(config))),
        )
        model.eval().requires_grad_(False)
        return round(found.seconds, 1)

    seconds = {"autoencoder": fitted("autoencoder", autoencoder, reconstruction, images)}
    latents = encode(autoencoder, images)
    mean, std = latents.mean(), latents.std()
    autoencoder.register_to_config(scaling_factor=float(1 / std), shift_factor=float(mean))
    torch.manual_seed(config.seed + 1)  # the same weights, whether or not this process has trained the autoencoder
    unet = build_unet(config.unet, latents.shape[1], latents.shape[-1], classes).to(setup.device)
    scheduler = build_scheduler()

    def denoising(batch: Tensor, labels: Tensor) -> Tensor:
        noise = torch.randn_like(batch)
        times = torch.randint(len(scheduler.alphas_cumprod), (len(batch),), device=batch.device)
        dropped = torch.rand(len(batch), device=batch.device) < config.unet.drop_class
        given = labels.masked_fill(dropped, classes)
        predicted = unet(scheduler.add_noise(batch, noise, times), times, class_labels=given).sample
        return (predicted - scheduler.get_velocity(batch, noise, times)).square().mean()

    scaled = ImageSet((latents - mean) / std, images.labels)
    seconds["unet"] = fitted("unet", unet, denoising, scaled, config.unet.decay)
    with TemporaryDirectory(dir=folder, prefix=".") as staging:  # whole or not at all
        for name, model in (("vae", autoencoder), ("unet", unet), ("scheduler", scheduler)):
            (model.half() if config.half and model is not scheduler else model).save_pretrained(Path(staging) / name)
        for name in ("vae", "unet", "scheduler"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (Path(staging) / name).replace(folder / name)
    write_json(folder / "condition.json", {"classes": classes, "none_label": classes})
    return seconds


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """Return all settings that the models depend on."""
    return {key: value for key, value in config.items() if key not in EXCLUDED}


def run(config: DictConfig, folder: Path, *, stop: Stop, quiet: bool = False) -> dict[str, Any]:
    """Train the models, unless they are finished, measure them, and return the content of `report.json`.

    Raises:
        ValueError: the folder has models of another configuration.
        KeyboardInterrupt: a stop was requested; the same call resumes.
    """
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    folder.mkdir(parents=True, exist_ok=True)
    path, checkpoints = folder / "report.json", [folder / "autoencoder.pt", folder / "unet.pt"]
    for file in () if config.resume else (path, *checkpoints):
        file.unlink(missing_ok=True)
    earlier = read_json(path) if path.is_file() else None
    if earlier is not None:
        checkpoint.check_same(path, identity(earlier["config"]), identity(resolved(config)))
    splits = instantiate(config.data).to(choose_device(config.device))
    with Progress(quiet=quiet) as progress:
        setup = Setup(config, splits, progress, stop)
        seconds = train(setup, folder) if earlier is None else earlier["seconds"]
        found = report(setup, folder, seconds, judge=setup.teacher()[0])
    write_json(path, found)
    for file in checkpoints:
        file.unlink(missing_ok=True)
    return found


@hydra_command("generative")
def main(config: DictConfig) -> None:
    """Run from the command line."""
    with defer_signals() as stop:
        run(config, Path(HydraConfig.get().runtime.output_dir), stop=stop)


if __name__ == "__main__":
    main()
